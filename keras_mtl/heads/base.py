"""The contract of heads: features in, what one serves out."""

from typing import Any

import keras
from keras import ops

from keras_mtl.core import checks

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
            isinstance(ignore_class, bool) or not isinstance(ignore_class, int)
        ):
            raise TypeError(
                f"`ignore_class` must be an integer or None, received "
                f"{checks.describe(ignore_class)}."
            )
        self.ignore_class = ignore_class
        self.supports_masking = True

    def default_loss(self) -> Any:
        """Returns the loss that `compile(loss="auto")` uses: one `keras.Loss` a task."""
        raise NotImplementedError(
            f"{type(self).__name__} has no default loss. Define `default_loss()`, or give "
            "`Task(loss=...)` or `compile(loss={...})`."
        )

    def default_metrics(self) -> list[Any]:
        """Returns fresh metrics that `compile(metrics="auto")` uses; none by default."""
        return []

    def decode(self, predictions: Any) -> Any:
        """Returns the answers an exported model serves; the predictions unless overridden."""
        return predictions

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "ignore_class": self.ignore_class}


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
    present = ops.broadcast_to(ops.cast(mask, features.dtype), ops.shape(features))
    count = ops.sum(present, axis=axes)
    if pooling == "avg":
        return ops.sum(features * present, axis=axes) / ops.maximum(count, 1)
    lowest = ops.cast(-6e4, features.dtype)  # representable in float16
    highest = ops.max(ops.where(present > 0, features, lowest), axis=axes)
    return ops.where(count > 0, highest, 0)
