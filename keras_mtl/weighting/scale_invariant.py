"""The sum of the losses' logarithms."""

from typing import Any

import keras
from keras import ops

from keras_mtl.core import checks
from keras_mtl.weighting.base import LossWeighting


@keras.saving.register_keras_serializable(package="keras_mtl")
class ScaleInvariant(LossWeighting):
    """Descends the logarithms of the losses, which have no scale.

    The total is sum_i log L_i, negative where losses are small, and w_i = 1 / L_i. So every
    task adds w_i L_i = 1, and a loss in other units gives the same steps. The weights do not
    sum to anything fixed. A user's constants `loss_weights` multiply the weights, so a
    preference holds; under the logarithm it would vanish.

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

    >>> keras_mtl.weighting.ScaleInvariant()([1.0, 2.0, 4.0])
    2.07944
    >>> keras_mtl.weighting.ScaleInvariant().compute_weights([1.0, 2.0, 4.0])
    [1.0, 0.5, 0.25]

    Reference:
        B. Lin, Jiang, Ye, Zhang, P. Chen, Y. Chen, S. Liu, Tsang, Kwok 2023, Dual-balancing for
        multi-task learning, its logarithm transformation, https://arxiv.org/abs/2308.12029, with
        1e-8 in the authors' code. The baseline "SI" of Navon, Shamsian, Achituve, Maron,
        Kawaguchi, Chechik, Fetaya 2022, https://arxiv.org/abs/2202.01017.
        Differs from the paper: none of its balancing of gradients; `epsilon` can be chosen.
    """

    takes_negative_losses = False

    def __init__(self, epsilon: float = 1e-8, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.epsilon = checks.finite_number("epsilon", epsilon, minimum=1e-12, maximum=1.0)

    def call(self, task_losses: Any, active: Any) -> Any:
        return ops.sum(active * ops.log(task_losses + self.epsilon))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "epsilon": self.epsilon}
