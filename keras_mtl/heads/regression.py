"""Regression: one number or several."""

from typing import Any

import keras

from keras_mtl.core import checks
from keras_mtl.heads.base import DenseHead


@keras.saving.register_keras_serializable(package="keras_mtl")
class Regression(DenseHead):
    """Predicts numbers: pool, one dense layer, by default no activation.

    Predictions are `activation(W pool(features) + b)`. Missing targets are NaN, in some columns
    or in all. Without pooling each step or pixel has its own, as in depth estimation. Adds
    `(channels + 1) * units` parameters.

    Args:
        units: Integer >= 1. How many numbers to predict; 1 by default.
        activation: `None` (default) for any number, or a Keras activation that knows the range
            of the target, such as `"softplus"` for targets > 0.
        pooling: `"avg"` (default) or `"max"` over the axes between batch and channels, leaving
            padding out; `None` keeps them.
        upsampling: Integer >= 1. Without pooling, how many times finer than the features the
            predictions are, interpolated linearly; 1 by default.
        kernel_initializer: Initializer of the kernel, as in `keras.layers.Dense`.
        kernel_regularizer: Optional regularizer of the kernel.
        name: Optional string. Name of the layer; builders rename it to the task's name.

    Input shape: `(batch, ..., channels)`.
    Output shape: `(batch, units)`; without pooling `(batch, ..., units)`.

    Raises:
        TypeError: If `units` is no integer.
        ValueError: If `units` < 1, another argument is not among the above, or the features
            are several tensors.

    Example:

    >>> head = keras_mtl.heads.Regression(units=2, activation="softplus")
    >>> head.compute_output_shape((None, 16, 64))
    (None, 2)
    """

    def __init__(
        self,
        units: int = 1,
        activation: Any = None,
        pooling: str | None = "avg",
        **kwargs: Any,
    ) -> None:
        units = checks.positive_integer("units", units)
        super().__init__(units, _activation(activation), pooling, **kwargs)
        self.units = units

    def default_loss(self) -> keras.Loss:
        return keras.losses.MeanSquaredError()

    def default_metrics(self) -> list[keras.Metric]:
        return [keras.metrics.MeanAbsoluteError(name="mae")]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


def _activation(activation: Any) -> Any:
    try:
        return activation if activation is None else keras.activations.get(activation)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "`activation` must be None, the name of a Keras activation or a function, received "
            f"{checks.describe(activation)}."
            f"{checks.suggestion(activation, vars(keras.activations))}"
        ) from error
