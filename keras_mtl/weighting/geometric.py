"""The geometric mean of the losses."""

from typing import Any

import keras
from keras import ops

from keras_mtl.core import checks
from keras_mtl.weighting.base import LossWeighting


@keras.saving.register_keras_serializable(package="keras_mtl")
class Geometric(LossWeighting):
    """Descends the geometric mean of the losses.

    Over m active tasks the total is G = (prod_i L_i)^(1 / m), and w_i = G / (m L_i). So each
    task adds the same w_i L_i, and a loss's scale changes the length of the step, but not its
    direction. The weights sum to G times the mean of 1 / L_i: at least 1, and 1 where all losses
    are equal. A user's constants `loss_weights` multiply the weights, so a preference
    holds; inside the mean it would only scale the total.

    Args:
        epsilon: Float in [1e-12, 1], in units of the losses. It is added to each loss, so that
            total and weights stay finite at 0; lower it for losses that are about as small.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks,)`, mean losses, each >= 0, unscaled.
    Output shape: `()`, the total.

    Raises:
        TypeError: If `epsilon` is not a number.
        ValueError: If `epsilon` is outside [1e-12, 1], or a loss is negative.

    Example:

    >>> keras_mtl.weighting.Geometric()([1.0, 2.0, 4.0])
    2.0
    >>> keras_mtl.weighting.Geometric().compute_weights([1.0, 2.0, 4.0])
    [0.66667, 0.33333, 0.16667]

    Reference:
        Chennupati, Sistu, Yogamani, Rawashdeh 2019, MultiNet++: multi-stream feature aggregation
        and geometric loss strategy for multi-task learning, the geometric loss strategy,
        https://arxiv.org/abs/1904.08492.
        Differs from the paper: `epsilon`; the mean runs over the active tasks.
    """

    takes_negative_losses = False

    def __init__(self, epsilon: float = 1e-8, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.epsilon = checks.finite_number("epsilon", epsilon, minimum=1e-12, maximum=1.0)

    def call(self, task_losses: Any, active: Any) -> Any:
        # (prod_i L_i)^(1 / m) = exp(1 / m sum_i log L_i): the product itself would overflow.
        num_active = ops.sum(active)
        logs = active * ops.log(task_losses + self.epsilon)
        mean = ops.exp(ops.sum(logs) / ops.maximum(num_active, 1.0))
        # Without active tasks the empty product is 1, but there is nothing to descend.
        return ops.minimum(num_active, 1.0) * mean

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "epsilon": self.epsilon}
