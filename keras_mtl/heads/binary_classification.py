"""Binary classification: one yes or no, or several at once (multi-label)."""

from typing import Any

import keras

from keras_mtl.core import checks
from keras_mtl.heads.base import DenseHead


@keras.saving.register_keras_serializable(package="keras_mtl")
class BinaryClassification(DenseHead):
    """Predicts yes or no, once or for several labels: pool, one dense layer, sigmoid.

    Predictions are `sigmoid(W pool(features) + b)`, what one would serve. With `units` > 1 the
    labels are independent of each other (multi-label) and each may be missing on its own. The
    loss is computed from the logits either way. Adds `(channels + 1) * units` parameters.

    Args:
        units: Integer >= 1. Number of yes-or-no labels; 1 by default.
        activation: `"sigmoid"` for probabilities (default), or `None` for logits.
        pooling: `"avg"` (default) or `"max"` over the axes between batch and channels, leaving
            padding out; `None` keeps them.
        upsampling: Integer >= 1. Without pooling, how many times finer than the features the
            predictions are, interpolated linearly; 1 by default.
        ignore_class: Optional integer. The label that means "no label"; -1 by default, `None`
            where every label counts.
        kernel_initializer: Initializer of the kernel, as in `keras.layers.Dense`.
        kernel_regularizer: Optional regularizer of the kernel.
        name: Optional string. Name of the layer; builders rename it to the task's name.

    Input shape: `(batch, ..., channels)`.
    Output shape: `(batch, units)`; without pooling `(batch, ..., units)`. Labels are 0 or 1.

    Raises:
        TypeError: If `units` or `ignore_class` is no integer.
        ValueError: If `units` < 1, another argument is not among the above, or the features
            are several tensors.

    Example:

    >>> head = keras_mtl.heads.BinaryClassification(units=3)
    >>> head.compute_output_shape((None, 64))
    (None, 3)
    """

    def __init__(
        self,
        units: int = 1,
        activation: str | None = "sigmoid",
        pooling: str | None = "avg",
        ignore_class: int | None = -1,
        **kwargs: Any,
    ) -> None:
        checks.one_of("activation", activation, ("sigmoid", None))
        units = checks.positive_integer("units", units)
        super().__init__(units, activation, pooling, ignore_class=ignore_class, **kwargs)
        self.units = units

    def default_loss(self) -> keras.Loss:
        return keras.losses.BinaryCrossentropy(from_logits=self.activation is None)

    def default_metrics(self) -> list[keras.Metric]:
        # A logit of 0 is a probability of 0.5.
        threshold = 0.0 if self.activation is None else 0.5
        return [keras.metrics.BinaryAccuracy(name="accuracy", threshold=threshold)]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}
