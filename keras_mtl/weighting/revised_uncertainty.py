"""Weights from each task's learned noise, with a penalty that is never negative."""

from typing import Any

import keras
from keras import ops

from keras_mtl.core import checks
from keras_mtl.weighting.base import LossWeighting

# Wide enough for losses from 1e-17 to 9e8, and exp(20) * 1e8 can still be squared in float32.
BOUND = 20.0


@keras.saving.register_keras_serializable(package="keras_mtl")
class RevisedUncertainty(LossWeighting):
    """Weights each task by its learned noise, and never makes the total negative.

    With log variances s, the total is sum_i 0.5 exp(-s_i) L_i + log(1 + exp(s_i)), in which a
    low noise costs nothing, where in `uncertainty` it is rewarded without limit. The weights
    w_i = 0.5 exp(-s_i) do not sum to anything fixed. At the best s_i, w_i is near 1 / L_i for
    large losses, but only near 1 / sqrt(2 L_i) for small ones, so a task that is almost solved
    gains less weight. A user's constants `loss_weights` multiply the weights and play no part
    in learning s, so a preference holds; within the total s would work against it.

    Args:
        initial_log_variance: Float in [-20, 20]. Starting value of every s_i (natural log);
            the default 0 starts at weight 0.5.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks,)`, mean losses, each >= 0, unscaled.
    Output shape: `()`, the total, >= 0.

    Raises:
        TypeError: If `initial_log_variance` is not a number.
        ValueError: If `initial_log_variance` is outside [-20, 20], or a loss is negative: it
            has no best s_i.

    Example:

    >>> keras_mtl.weighting.RevisedUncertainty()([1.0, 2.0, 4.0])
    5.57944
    >>> keras_mtl.weighting.RevisedUncertainty().compute_weights([4.0, 1.0])
    [0.5, 0.5]

    Reference:
        Liebel, Koerner 2018, Auxiliary tasks in multi-task learning, the revised regularisation
        term, https://arxiv.org/abs/1805.06334; s = log(c^2). As there, all losses have the
        factor 0.5, cross-entropies too.
        Differs from the paper: it learns c, whose weight is infinite where it crosses 0; updates
        keep s within +-20, because a loss of 0 would drive its weight to infinity.
    """

    takes_negative_losses = False

    def __init__(
        self, initial_log_variance: float = 0.0, name: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.initial_log_variance = checks.finite_number(
            "initial_log_variance", initial_log_variance, minimum=-BOUND, maximum=BOUND
        )

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.log_variances = self.add_task_variable(
            "log_variances",
            keras.initializers.Constant(self.initial_log_variance),
            trainable=True,
            bound=BOUND,
        )

    def call(self, task_losses: Any, active: Any) -> Any:
        # L / (2 sigma^2) + log(1 + sigma^2), with sigma^2 = exp(s): the softplus of s.
        weights = 0.5 * ops.exp(-self.log_variances)
        return ops.sum(active * (weights * task_losses + ops.softplus(self.log_variances)))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "initial_log_variance": self.initial_log_variance}
