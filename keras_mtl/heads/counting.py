"""Counting: how many, as the rate of a Poisson distribution."""

from typing import Any

import keras
from keras import ops

from keras_mtl.core import checks
from keras_mtl.core.head_loss import ElementwiseLoss
from keras_mtl.heads.base import DenseHead

# Below this logit softplus(z) = exp(z) to float32, and above the other exp(z) nears its range.
LOWEST_LOGIT, HIGHEST_LOGIT = -20.0, 60.0
LOWEST_RATE = 1e-35


@keras.saving.register_keras_serializable(package="keras_mtl")
class Counting(DenseHead):
    """Predicts how many: pool, one dense layer, softplus; the mean of a Poisson distribution.

    Predictions are rates, `softplus(W pool(features) + b)`: the expected count. The loss is
    half the Poisson deviance, computed from the log of the rate. It has the gradient of the
    Poisson likelihood and is 0 where the rate is the count, so that every loss weighting takes
    it. Counts that are missing are NaN, or -1 in integers, each on its own. Without pooling
    there is a count a step or pixel. Adds `(channels + 1) * units` parameters.

    Args:
        units: Integer >= 1. How many counts to predict, such as one a class; 1 by default.
        activation: `"softplus"` (default), or `"exponential"`, under which features multiply
            rates; held below e^60. Large counts, which differ by factors, are learned in fewer
            steps under it.
        pooling: `"avg"` (default) or `"max"` over the axes between batch and channels, leaving
            padding out; `None` keeps them.
        ignore_class: Optional integer. The integer label that means "no label"; -1 by default,
            `None` for none. Missing float labels are NaN.
        upsampling: Integer >= 1. Without pooling, how many times finer than the features the
            predictions are, interpolated linearly; 1 by default.
        kernel_initializer: Initializer of the kernel, as in `keras.layers.Dense`.
        kernel_regularizer: Optional regularizer of the kernel.
        name: Optional string. Name of the layer; builders rename it to the task's name.

    Input shape: `(batch, ..., channels)`.
    Output shape: `(batch, units)`; without pooling `(batch, ..., units)`. Labels are finite
    numbers >= 0.

    Raises:
        TypeError: If `units`, `upsampling` or `ignore_class` is no integer.
        ValueError: If `units` or `upsampling` < 1, another argument is not among the above, or
            the features are several tensors.

    Example:

    >>> head = keras_mtl.heads.Counting(kernel_initializer="ones")
    >>> head(np.array([[0.0], [100.0]]))
    [[0.693147], [100.0]]

    Reference:
        McCullagh, Nelder 1989, Generalized Linear Models, ch. 2 and 6: the Poisson deviance.
        Differs from the book: softplus as the link, by default, so that rates stay finite.
    """

    def __init__(
        self,
        units: int = 1,
        activation: str = "softplus",
        pooling: str | None = "avg",
        ignore_class: int | None = -1,
        **kwargs: Any,
    ) -> None:
        checks.one_of("activation", activation, ("softplus", "exponential"))
        units = checks.positive_integer("units", units)
        super().__init__(units, activation, pooling, ignore_class=ignore_class, **kwargs)
        self.units = units

    def activate(self, logits: Any) -> Any:
        if self.activation == "exponential":
            log_rates = ops.minimum(logits, HIGHEST_LOGIT)
            rates = ops.exp(log_rates)
        else:
            rates = ops.softplus(logits)
            # The branch not taken is kept finite too: its gradient would be NaN.
            large = ops.log(ops.softplus(ops.maximum(logits, LOWEST_LOGIT)))
            log_rates = ops.where(logits > LOWEST_LOGIT, large, logits)
        # As Keras does with the logits of probabilities: of a rate of 0 the log would be lost.
        rates._keras_logits = log_rates
        return rates

    def default_loss(self) -> keras.Loss:
        return PoissonDeviance()

    def default_metrics(self) -> list[keras.Metric]:
        return [keras.metrics.MeanAbsoluteError(name="mae")]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable(package="keras_mtl")
class PoissonDeviance(ElementwiseLoss):
    """Half the Poisson deviance: rate - y + y log(y / rate), 0 where the rate is y.

    It is the negative log-likelihood less its least value, which depends on y alone. It reads the
    log of the rate where a `Counting` head has noted it, else takes the log.

    Args:
        name: Optional string. Name of the loss.
        reduction: As in Keras.

    Example:

    >>> keras_mtl.heads.counting.PoissonDeviance()(np.array([[3.0]]), np.array([[2.0]]))
    0.216395
    """

    nonnegative = True
    lowest_label = 0
    label_noun = "counts"

    def __init__(
        self,
        name: str | None = "poisson_deviance",
        reduction: str = "sum_over_batch_size",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, reduction=reduction, **kwargs)

    def elements(self, y_true: Any, y_pred: Any) -> Any:
        log_rates = getattr(y_pred, "_keras_logits", None)
        if log_rates is None:
            log_rates = ops.log(ops.maximum(y_pred, LOWEST_RATE))
        y_true = ops.cast(y_true, y_pred.dtype)
        counted = y_true > 0
        log_ratio = log_rates - ops.log(ops.where(counted, y_true, 1.0))
        # Where y is 0, y_pred is left of the form for large ratios.
        u = ops.where(counted, log_ratio, 2.0)
        far = y_pred - y_true * (1.0 + u)
        # Large counts do not cancel in this form. `expm1` may be one unit in the last place low.
        v = ops.minimum(u, 1.0)
        near = ops.maximum(y_true * (ops.expm1(v) - v), 0.0)
        return ops.where(u > 1.0, far, near)
