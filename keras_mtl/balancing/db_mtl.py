"""Gradients of log losses, averaged over the steps and brought to one length."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_mtl.balancing.tracking import TrackingBalancing
from keras_mtl.core import checks

# Squares and quotients of lengths stay within float32.
_LARGEST = 1e38


@keras.saving.register_keras_serializable(package="keras_mtl")
class DBMTL(TrackingBalancing):
    """Sums averaged gradients of the log losses, all made as long as the longest.

    The gradient of log L_k is g_k / L_k. Its average in a task's t-th step is
    y_k <- b y_k + (1 - b) g_k / L_k with b = beta / t^decay, and the direction is
    sum_k (max_j |y_j| / |y_k|) y_k. So neither the scale of a loss nor the length of its gradient
    counts for the shared variables. The heads learn from the log losses too: with the weights
    1 / L_k.

    The direction is as long as a sum. The scale of a loss as it is defined cancels everywhere; a
    loss weighting set before it, which the raw losses do not show, acts on the heads only.
    A task whose average is 0 is treated like an absent one; the average of an absent task does
    not move.

    Args:
        beta: Float from 0, below 1. The part of the old average that is kept; 0 averages nothing.
        decay: Float >= 0. How fast that part falls with the steps; 0 keeps it constant.
        epsilon: Float > 0, in units of the losses. Losses below it, negative ones too, count as it.
        scope: `"parameters"` only.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks, num_params)`, one gradient a row; `losses`, the raw task losses.
    Output shape: `(num_params,)`, the direction to descend.

    Raises:
        TypeError: If an option is no number.
        ValueError: If an option is out of its range, or `scope` is not `"parameters"`.

    Example:

    >>> balancing = keras_mtl.balancing.DBMTL(beta=0.0)
    >>> balancing([[6.0, 0.0], [0.0, 1.0]], losses=[2.0, 1.0])  # of log losses: 3 and 1 long
    [3.0, 3.0]

    Reference:
        B. Lin, Jiang, Ye, Zhang, P. Chen, Y.-C. Chen, S. Liu, Kwok 2023, Dual-balancing for
        multi-task learning, algorithm 1, https://arxiv.org/abs/2308.12029; defaults of the
        authors' library, https://github.com/median-research-group/LibMTL.
        Differs from the paper: small losses are raised to epsilon, which the authors' code adds
        to all losses; t counts the steps in which the task took part.
    """

    needs_losses = True
    weights_heads = True
    weights_remark = "all gradients are brought to one length, so only the heads feel it."

    def __init__(
        self,
        beta: float = 0.9,
        decay: float = 0.0,
        epsilon: float = 1e-8,
        scope: str = "parameters",
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(scope=scope, name=name, **kwargs)
        self.beta = checks.finite_number("beta", beta, minimum=0, maximum=1)
        if self.beta == 1:
            raise ValueError("`beta` must be below 1, received 1: no average would ever move.")
        self.decay = checks.finite_number("decay", decay, minimum=0)
        self.epsilon = checks.positive_number("epsilon", epsilon)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.steps = self.add_task_variable("steps")

    def combine(
        self, gradients: Sequence[Any], gramian: Any, active: Any, **more: Any
    ) -> list[Any]:
        self.steps.assign_add(ops.cast(active, "float32"))
        return super().combine(gradients, gramian, active, **more)

    def track(
        self, gradients: Any, tracked: Sequence[Any], active: Any, *, losses: Any
    ) -> tuple[Any, Sequence[Any]]:
        of_log = gradients * self.head_weights(None, active, losses=losses)[:, None]
        steps = ops.cast(ops.maximum(self.steps, 1.0), "float64")
        # In float64: in float32 nothing is left of 1 - b for a b near 1.
        replaced = ops.cast(1 - self.beta / ops.power(steps, self.decay), gradients.dtype)
        average = tracked[0] + replaced[:, None] * (of_log - tracked[0])
        return average, [average]

    def solve(self, gramian: Any, active: Any, *, losses: Any) -> Any:
        del active, losses
        squares = ops.minimum(ops.cast(ops.diagonal(gramian), "float64"), _LARGEST)
        lengths = ops.sqrt(squares)
        known = lengths > 0
        weights = ops.where(known, ops.max(lengths) / ops.where(known, lengths, 1.0), 0.0)
        return ops.minimum(weights, _LARGEST)

    def head_weights(self, weights: Any, active: Any, *, losses: Any) -> Any:
        del weights
        return active / ops.maximum(ops.cast(losses, active.dtype), self.epsilon)

    def get_config(self) -> dict[str, Any]:
        options = {"beta": self.beta, "decay": self.decay, "epsilon": self.epsilon}
        return {**super().get_config(), **options}
