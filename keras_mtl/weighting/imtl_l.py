"""Learned scales that bring every loss to 1."""

from typing import Any

import keras
from keras import ops

from keras_mtl.weighting.base import LossWeighting

# Optima for losses from 2e-9 to 5e8, and exp(20) * 1e8 can still be squared in float32.
BOUND = 20.0


@keras.saving.register_keras_serializable(package="keras_mtl")
class IMTLL(LossWeighting):
    """Learns a scale for each loss that brings it to 1.

    With log scales s, which start at 0, the total is sum_i exp(s_i) L_i - s_i, and
    w_i = exp(s_i). So the weights start at 1 and do not sum to anything fixed. The best s_i is
    -log L_i: there w_i L_i = 1, in whatever units the loss comes, as in `scale_invariant`. A
    user's constants `loss_weights` multiply the weights and play no part in learning s, so a
    preference holds; within the total s would learn to cancel it.

    Args:
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks,)`, mean losses, each >= 0, unscaled.
    Output shape: `()`, the total.

    Raises:
        ValueError: If a loss is negative: it has no best s_i.

    Example:

    >>> weighting = keras_mtl.weighting.IMTLL()
    >>> weighting([1.0, 2.0, 4.0])
    7.0
    >>> _ = weighting.log_scales.assign(-np.log([1.0, 2.0, 4.0]))
    >>> weighting.compute_weights([1.0, 2.0, 4.0])
    [1.0, 0.5, 0.25]

    Reference:
        L. Liu, Y. Li, Kuang, Xue, Y. Chen, W. Yang, Liao, W. Zhang 2021, Towards impartial
        multi-task learning, equation 6, https://openreview.net/forum?id=IMPnRXEWpvr: the loss
        balance, IMTL-L, which the paper combines with a balance of gradients, IMTL-G.
        Differs from the paper: updates keep s within +-20, because a loss of 0 would drive its
        weight to infinity.
    """

    takes_negative_losses = False

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.log_scales = self.add_task_variable("log_scales", trainable=True, bound=BOUND)

    def call(self, task_losses: Any, active: Any) -> Any:
        # sum_i exp(s_i) L_i - s_i
        return ops.sum(active * (ops.exp(self.log_scales) * task_losses - self.log_scales))
