"""The contract of heads: features in, what one serves out."""

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import keras
from keras import ops

from keras_mtl.core import checks
from keras_mtl.heads._upsampling import upsample, upsample_mask

POOLINGS = (None, "avg", "max")


@keras.saving.register_keras_serializable(package="keras_mtl")
class Head(keras.layers.Layer):
    """Base class of heads: the last layers of a task, with their loss and metrics.

    A subclass writes `call(features)`, which returns one tensor or a flat dict of tensors:
    what one would serve. Its first axis is the batch. `default_loss` and `default_metrics`
    are what `compile("auto")` takes. Predictions are float32 under mixed precision too.

    Args:
        ignore_class: Optional integer. Class label that means "no label"; such elements reach
            neither loss nor metric nor gradient. `None` where labels are no classes. Missing
            float labels are NaN.
        name: Optional string. Name of the layer; builders rename it to the task's name.

    Call arguments:
        features: A tensor `(batch, ..., channels)`, or a flat dict of such tensors.
    """

    def __init__(self, *, ignore_class: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if ignore_class is not None and (
            isinstance(ignore_class, bool) or not isinstance(ignore_class, Integral)
        ):
            raise TypeError(
                f"`ignore_class` must be an integer or None, received "
                f"{checks.describe(ignore_class)}."
            )
        self.ignore_class = None if ignore_class is None else int(ignore_class)
        self.supports_masking = True

    def default_loss(self) -> Any:
        """Returns the loss that `compile(loss="auto")` uses: one `keras.Loss` a task."""
        raise NotImplementedError(
            f"{type(self).__name__} has no default loss. Define `default_loss()`, or give "
            "`Task(loss=...)` or `compile(loss={...})`."
        )

    def default_metrics(self) -> list[Any]:
        """Returns the metrics that `compile(metrics="auto")` uses, by name or fresh; else none."""
        return []

    def decode(self, predictions: Any) -> Any:
        """Returns the answers an exported model serves; the predictions unless overridden."""
        return predictions

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        # Traced: from `compute_output_shape` Keras would take the compute dtype, not float32.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "ignore_class": self.ignore_class}


class DenseHead(Head):
    """Base class of heads that are one dense layer: pool, project, activate.

    The activation comes last and its tensor is returned untouched, because Keras notes the
    logits on it and computes cross-entropies from those, stably for any size of logits.

    Args:
        units: Integer >= 1. Size of the last axis of the predictions.
        activation: `None`, the name of a Keras activation, or a function.
        pooling: `"avg"` or `"max"` over the axes between batch and channels, or `None` to keep
            them: one prediction a step.
        upsampling: Integer >= 1. How many times as many predictions as features there are along
            each axis between batch and channels, where these are kept; 1 by default.
        kernel_initializer: Initializer of the kernel, as in `keras.layers.Dense`.
        kernel_regularizer: Optional regularizer of the kernel.
        ignore_class: Optional integer. As in `Head`.
        name: Optional string. Name of the layer.
    """

    def __init__(
        self,
        units: int,
        activation: Any,
        pooling: str | None = "avg",
        *,
        upsampling: int = 1,
        kernel_initializer: Any = "glorot_uniform",
        kernel_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        checks.one_of("pooling", pooling, POOLINGS)
        upsampling = checks.positive_integer("upsampling", upsampling)
        if upsampling > 1 and pooling is not None:
            raise ValueError(
                f"`upsampling` needs axes that are kept, received upsampling={upsampling} and "
                f"pooling='{pooling}'. Use `pooling=None`."
            )
        self.activation = activation
        self.pooling = pooling
        self.upsampling = upsampling
        self.dense = keras.layers.Dense(
            units,
            kernel_initializer=kernel_initializer,
            kernel_regularizer=kernel_regularizer,
            dtype=self.dtype_policy,
            name="dense",
        )

    def build(self, features_shape: Any) -> None:
        check_one_tensor(self, features_shape)
        pooled = (features_shape[0], features_shape[-1])
        self.dense.build(pooled if self.pooling else features_shape)

    def call(self, features: Any, mask: Any = None) -> Any:
        logits = self.dense(pool(features, self.pooling, mask))
        dtype = keras.backend.result_type(self.compute_dtype, "float32")
        # After the projection, with which interpolation commutes: it has fewer channels.
        return self.activate(upsample(ops.cast(logits, dtype), self.upsampling, mask))

    def activate(self, logits: Any) -> Any:
        """Returns the predictions that the logits, of float32 or finer, stand for."""
        return keras.activations.get(self.activation)(logits)

    def compute_mask(self, features: Any, mask: Any = None) -> Any:
        if mask is None or (self.pooling is not None and len(features.shape) > 2):
            return None
        return upsample_mask(mask, self.upsampling)

    def compute_output_shape(
        self, features_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        middle = () if self.pooling else features_shape[1:-1]
        finer = [size if size is None else size * self.upsampling for size in middle]
        return (features_shape[0], *finer, self.dense.units)

    def get_config(self) -> dict[str, Any]:
        dense = self.dense.get_config()
        named = self.activation is None or isinstance(self.activation, str)
        return {
            **super().get_config(),
            "activation": self.activation
            if named
            else keras.activations.serialize(self.activation),
            "pooling": self.pooling,
            "upsampling": self.upsampling,
            "kernel_initializer": dense["kernel_initializer"],
            "kernel_regularizer": dense["kernel_regularizer"],
        }


def check_one_tensor(head: Head, features_shape: Any) -> None:
    """Raises unless the features of `head` are one tensor, told from their shape."""
    if isinstance(features_shape, Mapping):
        names = list(features_shape)
        raise ValueError(
            f"{type(head).__name__} '{head.name}' reads one tensor, its features are a dict with "
            f"the entries {names}. Choose one with `keras_mtl.Task(head, features='{names[0]}')`, "
            "or join them in the task's tower."
        )
    if not all(size is None or isinstance(size, int) for size in features_shape):
        raise ValueError(
            f"{type(head).__name__} '{head.name}' reads one tensor, its features are "
            f"{len(features_shape)} tensors. Return a dict from the trunk and choose one with "
            "`keras_mtl.Task(head, features=...)`, or join them in the task's tower."
        )


def pool(features: Any, pooling: str | None, mask: Any = None) -> Any:
    """Reduces the axes between batch and channels, under the padding mask.

    Args:
        features: Tensor `(batch, ..., channels)`; `(batch, channels)` is returned as it is.
        pooling: `"avg"`, `"max"`, or `None` for no pooling.
        mask: Optional boolean tensor `(batch, steps)`, True where there is data. A row that is
            masked whole pools to 0.

    Returns:
        A tensor `(batch, channels)`, or `features` where nothing is pooled.
    """
    axes = tuple(range(1, len(features.shape) - 1))
    if pooling is None or not axes:
        return features
    if mask is None:
        return ops.mean(features, axis=axes) if pooling == "avg" else ops.max(features, axis=axes)
    while len(mask.shape) < len(features.shape):
        mask = ops.expand_dims(mask, -1)
    present = ops.broadcast_to(ops.cast(mask, "bool"), ops.shape(features))
    # float32: in float16 a sum overflows at 65504 and a count of steps is exact only to 2048.
    count = ops.sum(ops.cast(present, "float32"), axis=axes)
    if pooling == "avg":
        # `where` and not a product: padding may hold NaN.
        total = ops.sum(ops.where(present, ops.cast(features, "float32"), 0.0), axis=axes)
        return ops.cast(total / ops.maximum(count, 1.0), features.dtype)
    half = keras.backend.standardize_dtype(features.dtype) == "float16"
    lowest = ops.cast(-65504.0 if half else -3e38, features.dtype)  # the least finite numbers
    highest = ops.max(ops.where(present, features, lowest), axis=axes)
    return ops.where(count > 0, highest, ops.zeros_like(highest))
