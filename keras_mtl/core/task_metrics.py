"""One task's metrics, fed with labelled elements only."""

import inspect
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import keras
import tensorflow as tf

from keras_mtl.core import checks, metric_inputs, replicas
from keras_mtl.core.by_shape import ACCURACY
from keras_mtl.core.labels import Elements
from keras_mtl.core.losses import crossentropy, function_of, is_of_keras


def accuracy(y_true: Any, y_pred: Any) -> Any:
    """The accuracy that fits the shapes, as Keras picks it for `"accuracy"`."""
    return ACCURACY.pick(y_true.shape, y_pred.shape)(y_true, y_pred)


_BY_SHAPE = {"accuracy": accuracy, "acc": accuracy, "crossentropy": crossentropy}
_BY_SHAPE["ce"] = crossentropy


def resolve(task: str, identifiers: Any) -> list[Any]:
    """Returns fresh metric objects for a metric or a list of metrics, as in `compile`."""
    if identifiers is None:
        return []
    if not isinstance(identifiers, Sequence) or isinstance(identifiers, str):
        identifiers = [identifiers]
    return [_resolve_one(task, identifier) for identifier in identifiers]


def _resolve_one(task: str, identifier: Any) -> Any:
    if isinstance(identifier, str) and identifier.lower() in _BY_SHAPE:
        function = _BY_SHAPE[identifier.lower()]
        metric = keras.metrics.MeanMetricWrapper(function, name=identifier)
        metric._direction = "up" if function is accuracy else "down"
        return metric
    try:
        metric = keras.metrics.get(identifier)
    except (ValueError, TypeError) as error:
        # "accuracy" last, to be preferred to the class `Accuracy`, which compares for equality.
        names = [*(name for name in dir(keras.metrics) if name[0] != "_"), *_BY_SHAPE, "mse", "mae"]
        raise ValueError(
            f"`metrics` of task '{task}' holds a metric not known to Keras: "
            f"{checks.describe(identifier)}." + checks.suggestion(identifier, names)
        ) from error
    if not isinstance(metric, keras.metrics.Metric):
        name = identifier if isinstance(identifier, str) else getattr(metric, "__name__", None)
        return keras.metrics.MeanMetricWrapper(metric, name=name)
    if isinstance(identifier, str):
        metric.name = identifier
    return metric


def is_builtin(metric: Any) -> bool:
    """Whether the metric is one of Keras' own, which read one tensor of labels."""
    return function_of(metric) is accuracy or is_of_keras(metric)


# Which model each metric object counts for: the state of one object cannot serve two.
_OWNERS: weakref.WeakKeyDictionary[Any, weakref.ref[Any]] = weakref.WeakKeyDictionary()


def owned_by(model: Any, metric: Any) -> Any:
    """Returns `metric`, or a copy through its config where another model has it."""
    owner = _OWNERS[metric]() if metric in _OWNERS else None
    if owner is not None and owner is not model:
        return owned_by(model, type(metric).from_config(metric.get_config()))
    _OWNERS[metric] = weakref.ref(model)
    return metric


class TaskMetric:
    """A metric under its name in the logs, with what it may be fed.

    Args:
        log_name: String, `<task>_<metric>`.
        metric: A `keras.metrics.Metric`.
        task: String. The task's name.
        weighted: Boolean. Whether the user's sample weights reach it.
        jit_compile: Function that tells whether the step is compiled by XLA.
    """

    def __init__(
        self,
        log_name: str,
        metric: Any,
        *,
        task: str,
        weighted: bool,
        jit_compile: Callable[[], bool],
    ) -> None:
        self.name = log_name
        self.task = task
        self.metric = metric
        self._weighted = weighted
        self._jit_compile = jit_compile
        self._takes_weight = _takes_weight(metric) and not metric_inputs.compares_rows(metric)
        self._inputs = metric_inputs.way_for(metric)
        direction = getattr(metric, "_direction", None)
        if direction is not None:
            # Read by Keras' callbacks under `mode="auto"`, which take any other value for "down".
            self._direction = direction

    @property
    def knows_direction(self) -> bool:
        """Whether callbacks can tell what is better."""
        return hasattr(self, "_direction")

    def update(self, elements: Elements, counted: Any = None) -> None:
        """Adds a batch: labelled elements only.

        Args:
            elements: The task's `Elements`.
            counted: Optional boolean scalar; False keeps the whole batch out.
        """
        weight = elements.weight if self._weighted else None
        if elements.complete and weight is None and counted is None:
            self._update(elements.labels, elements.predictions)
        elif self._takes_weight:
            labels, predictions, weight = self._inputs(elements, weight, counted)
            self._update(labels, predictions, sample_weight=weight)
        else:
            self._update_rows(elements, counted)

    def _update(self, labels: Any, predictions: Any, **weight: Any) -> None:
        try:
            if _makes_variables_late(self.metric):
                _make_variables(self.metric, labels, predictions, **weight)
            self.metric.update_state(labels, predictions, **weight)
        except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
            received = {"labels": labels, "predictions": predictions, **weight}
            texts = [f"{noun} of shape {_shapes(part)}" for noun, part in received.items()]
            raise ValueError(
                f"`metrics` of task '{self.task}': '{self.metric.name}' cannot be updated with "
                f"{', '.join(texts)}: {error} Weights of 0 mark what has no label. Use a metric "
                "that takes these, or leave it out."
            ) from error

    def _update_rows(self, elements: Elements, counted: Any) -> None:
        # The metric takes no weights: rows that do not count are left out.
        if self._jit_compile():
            raise ValueError(
                f"Metric '{self.name}' takes no `sample_weight` a row, so rows without a label "
                "must be cut out of the batch, which XLA cannot do. Add `sample_weight=None` to "
                "its `update_state`, take one that does not compare rows with each other, or "
                "compile with `jit_compile=False`."
            )
        rows = tf.nest.flatten(elements.labels)[0]
        rows = tf.reshape(rows, (tf.shape(rows)[0], -1))[:, 0]
        mask = replace(elements, padding=None).counted(rows)
        mask = tf.ones_like(rows, dtype=tf.bool) if mask is None else mask
        mask = mask if counted is None else tf.logical_and(mask, counted)
        self._update(
            tf.nest.map_structure(lambda part: tf.boolean_mask(part, mask), elements.labels),
            tf.nest.map_structure(lambda part: tf.boolean_mask(part, mask), elements.predictions),
        )


def _makes_variables_late(metric: Any) -> bool:
    """Whether its variables are still to come, in a step that is being traced."""
    if tf.executing_eagerly() or not replicas.without_strategy():
        return False
    return getattr(metric, "_built", True) is False or not metric.variables


def _make_variables(metric: Any, *values: Any, **weight: Any) -> None:
    """Lets a metric make its variables before the step: XLA compiles none that makes any."""

    def zeros(part: Any) -> Any:
        return tf.zeros([size or 1 for size in part.shape], part.dtype)

    with tf.init_scope():
        # As the first update of all, of which nothing is left.
        metric.update_state(
            *tf.nest.map_structure(zeros, values), **tf.nest.map_structure(zeros, weight)
        )
        metric.reset_state()


def _takes_weight(metric: Any) -> bool:
    parameters = inspect.signature(metric.update_state).parameters
    return "sample_weight" in parameters or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )


def _shapes(structure: Any) -> Any:
    return tf.nest.map_structure(lambda part: tuple(part.shape), structure)


class Direction:
    """A value in the logs that callbacks can monitor under `mode="auto"`.

    Args:
        name: String. The value's name in the logs.
        direction: `"up"` or `"down"`: where better lies.
    """

    def __init__(self, name: str, direction: str = "down") -> None:
        self.name = name
        self._direction = direction

    @property
    def knows_direction(self) -> bool:
        """Whether callbacks can tell what is better."""
        return True
