"""One task's loss as a sum and a count, exact under masks, missing labels and replicas.

This file alone decides by what a loss is divided: Keras divides `Loss` objects by the number of
replicas, bare functions not, and masks and weights change what a mean is.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_mtl.core import checks, replicas
from keras_mtl.core.by_shape import CROSSENTROPY
from keras_mtl.core.head_loss import HeadLoss
from keras_mtl.core.labels import Elements, fit

# Losses that are means over the last axis of a function of one label and one prediction.
ELEMENTWISE = (
    keras.losses.binary_crossentropy,
    keras.losses.binary_focal_crossentropy,
    keras.losses.mean_squared_error,
    keras.losses.mean_absolute_error,
    keras.losses.mean_absolute_percentage_error,
    keras.losses.mean_squared_logarithmic_error,
    keras.losses.huber,
    keras.losses.hinge,
    keras.losses.squared_hinge,
    keras.losses.log_cosh,
    keras.losses.poisson,
)
# Losses of one whole row of labels against one of predictions, in the same shape.
BY_ROW = (
    keras.losses.categorical_crossentropy,
    keras.losses.categorical_focal_crossentropy,
    keras.losses.cosine_similarity,
    keras.losses.kl_divergence,
)
CROSSENTROPIES = (
    keras.losses.binary_crossentropy,
    keras.losses.binary_focal_crossentropy,
    keras.losses.categorical_crossentropy,
    keras.losses.categorical_focal_crossentropy,
    keras.losses.sparse_categorical_crossentropy,
)


# What a loss declares that is not one of a head.
_NOTHING = HeadLoss()


class LossSum(NamedTuple):
    """A loss before the division: local to a replica until summed over them."""

    total: Any
    denominator: Any
    labelled: Any


def crossentropy(y_true: Any, y_pred: Any) -> Any:
    """The cross-entropy that fits the shapes, as Keras picks it for `"crossentropy"`."""
    return CROSSENTROPY.pick(y_true.shape, y_pred.shape)(y_true, y_pred)


def resolve(task: str, identifier: Any) -> Any:
    """Returns the `keras.Loss` that a loss name, function, config or object stands for."""
    if isinstance(identifier, str) and identifier.lower() in ("crossentropy", "ce"):
        identifier = crossentropy
    try:
        loss = keras.losses.get(identifier)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"`loss` of task '{task}' is not known to Keras: {checks.describe(identifier)}."
            + checks.suggestion(identifier, _loss_names())
        ) from error
    if not isinstance(loss, keras.Loss):
        if not callable(loss):
            raise TypeError(
                f"`loss` of task '{task}' must be a name, function or `keras.Loss`, received "
                f"{checks.describe(identifier)}."
            )
        loss = _Function(loss)
    if loss.reduction in (None, "none"):
        raise ValueError(
            f"`loss` of task '{task}' has reduction={loss.reduction!r}, which leaves no scalar. "
            'Use reduction="sum_over_batch_size", "mean_with_sample_weight" or "sum".'
        )
    return loss


def _loss_names() -> list[str]:
    short = ["bce", "kld", "mae", "mape", "mse", "msle"]
    return [*short, *(name for name in dir(keras.losses) if name.islower() and name[0] != "_")]


class _Function(keras.Loss):
    """A loss function as a loss object."""

    def __init__(self, fn: Callable[[Any, Any], Any]) -> None:
        super().__init__(name=getattr(fn, "__name__", None))
        self.fn = fn

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self.fn(y_true, y_pred)


# A class that overrides these does something of its own with the function it holds.
_LOSS_CALLS = (keras.losses.MeanSquaredError.call, _Function.call)
_METRIC_UPDATE = keras.metrics.MeanMetricWrapper.update_state


def function_of(measure: Any) -> Any:
    """Returns the function that is a loss or metric, or `None` for a class of the user's own."""
    kind = type(measure)
    if getattr(kind, "call", None) in _LOSS_CALLS:
        return measure.fn
    return measure._fn if getattr(kind, "update_state", None) is _METRIC_UPDATE else None


def is_of_keras(measure: Any) -> bool:
    """Whether a loss or metric is one of Keras' own, which read one tensor of labels."""
    made_by = function_of(measure) or type(measure)
    return made_by is crossentropy or made_by.__module__.startswith("keras.src.")


class TaskLoss:
    """Sums one task's loss over the labelled elements of a batch.

    Args:
        task: String. The task's name, for errors.
        loss: A `keras.Loss` from `resolve`.
    """

    def __init__(self, task: str, loss: Any) -> None:
        self.task = task
        self.loss = loss
        self.reduction = loss.reduction
        self.declares = loss if isinstance(loss, HeadLoss) else _NOTHING
        self.elementwise = function_of(loss) in ELEMENTWISE or self.declares.elementwise
        # A copy by hand: `copy.copy` goes through the config and breaks a user's own class.
        self._unreduced = object.__new__(type(loss))
        self._unreduced.__dict__.update(loss.__dict__)
        self._unreduced.__dict__["reduction"] = "none"
        # It names a scope, of which TensorFlow refuses names such as "_loss" and "<lambda>".
        self._unreduced.__dict__["name"] = f"{task}_loss"

    @property
    def function(self) -> Any:
        """The Keras function behind the loss, or `None`."""
        return function_of(self.loss)

    @property
    def ignore_class(self) -> int | None:
        """The class label that the loss itself leaves out, or `None`."""
        return getattr(self.loss, "ignore_class", None)

    def for_shapes(self, labels: tf.TensorShape, predictions: Sequence[int | None]) -> "TaskLoss":
        """Returns the loss that `"crossentropy"` stands for with these shapes, else this one."""
        if self.function is not crossentropy or labels.rank is None:
            return self
        return TaskLoss(self.task, resolve(self.task, CROSSENTROPY.pick(labels, predictions)))

    @property
    def by_row(self) -> bool:
        """Whether the loss compares whole rows in one shape, such as one-hot labels."""
        return self.function in BY_ROW

    @property
    def is_builtin(self) -> bool:
        """Whether the loss is one of Keras' own, which read one array of labels."""
        return is_of_keras(self.loss)

    @property
    def is_known_by_row(self) -> bool:
        """Whether the loss is known to have a value a row."""
        known = self.elementwise or self.declares.reads_masks
        return known or self.function in (*BY_ROW, *CROSSENTROPIES, crossentropy)

    def is_scalar(self, labels: Any, predictions: Any) -> bool:
        """Whether the loss reduces over the batch by itself."""
        return tf.convert_to_tensor(self._unreduced(labels, predictions)).shape.rank == 0

    def sums(self, elements: Elements) -> LossSum:
        """Returns the weighted sum of the labelled elements' losses, and what it is divided by."""
        values = self._values(elements)
        if values.shape.rank == 0:
            return self._scalar(values, elements)
        mask = elements.counted(values)
        weights = None if elements.weight is None else self._fit(elements.weight, values)
        if mask is not None:
            values = tf.where(mask, values, 0.0)
        weighted = values if weights is None else values * weights
        ones = tf.ones_like(values) if mask is None else tf.cast(mask, tf.float32)
        labelled = tf.reduce_sum(ones)
        return LossSum(
            tf.reduce_sum(weighted), self._denominator(labelled, ones, weights), labelled
        )

    def _fit(self, weight: Any, values: Any) -> Any:
        return fit(weight, values, f"Task '{self.task}': its `sample_weight`")

    def _denominator(self, labelled: Any, ones: Any, weights: Any) -> Any:
        if self.reduction == "sum":
            return tf.constant(1.0 / replicas.count())
        if self.reduction == "mean_with_sample_weight" and weights is not None:
            return tf.reduce_sum(ones * weights)
        return labelled

    def _values(self, elements: Elements) -> Any:
        labels, predictions = elements.labels, elements.predictions
        if self.declares.reads_masks:
            masks = elements.mask, elements.padding
            return tf.cast(self._unreduced.elements(labels, predictions, *masks), tf.float32)
        if not self._by_column(elements):
            return tf.cast(self._unreduced(labels, predictions), tf.float32)
        # One label and one prediction each, so that single columns can be masked.
        single = tf.expand_dims(predictions, -1)
        if hasattr(predictions, "_keras_logits"):
            # With these Keras computes cross-entropies stably; a new tensor would lose them.
            single._keras_logits = tf.expand_dims(predictions._keras_logits, -1)
        return tf.cast(self._unreduced(tf.expand_dims(labels, -1), single), tf.float32)

    def _by_column(self, elements: Elements) -> bool:
        if not self.elementwise or isinstance(elements.labels, Mapping):
            return False
        rank = elements.predictions.shape.rank
        if elements.labels.shape.rank != rank:
            return False
        weight = elements.weight
        single = elements.mask is not None or (weight is not None and weight.shape.rank == rank)
        # Of outputs `(batch,)` Keras takes the mean over the batch: the rows would be lost.
        return rank == 1 or (single and elements.predictions.shape[-1] != 1)

    def _scalar(self, value: Any, elements: Elements) -> LossSum:
        masked = elements.padding is not None or elements.rows is not None
        if masked or elements.weight is not None:
            raise ValueError(
                f"`loss` of task '{self.task}' returns a scalar, which cannot be masked or "
                "weighted, but the task has a mask, `where`, `sample_weight` or `class_weight`. "
                "Return one value a row: do not reduce over the batch in the loss."
            )
        if elements.mask is not None:
            # A missing label must show: one number for all rows cannot leave it out.
            value = tf.where(tf.reduce_all(elements.mask), value, float("nan"))
        labels = tf.nest.flatten(elements.labels)[0]
        rows = tf.cast(tf.shape(labels)[0], tf.float32)
        if self.reduction == "sum":
            return LossSum(value, tf.constant(1.0 / replicas.count()), rows)
        return LossSum(value * rows, rows, rows)

    @property
    def likelihood(self) -> str:
        """`"classification"` for cross-entropies, else `"regression"`."""
        known = (*CROSSENTROPIES, crossentropy)
        return "classification" if self.function in known else "regression"
