"""A combination of the gradients between their mean and the shortest one."""

from typing import Any

import keras
from keras import ops

from keras_mtl.balancing.base_gramian import GramianBalancing
from keras_mtl.core import checks, simplex


@keras.saving.register_keras_serializable(package="keras_mtl")
class SDMGrad(GramianBalancing):
    """Balances the tasks within reach of the mean gradient, from two half batches.

    With g_0 the mean of the active gradients, the direction is
    (sum_k w_k g_k + c g_0) / (1 + c), and the weights w >= 0 with sum 1 make it as short as can
    be: c = 0 is MGDA, and with c growing it tends to the mean. In each step the weights, which
    begin where they ended in the step before, move `num_inner` times: w <- P(w - r C (w + c u)),
    with P the nearest point with w >= 0 and sum 1, and u equal weights. C_ij = g_i . g'_j
    multiplies a gradient on the first half of a batch's rows with one on the second, so that the
    noise common to both does not count. Rows must be shuffled: a task that has labels in one half
    only has a gradient of 0 in the other. In units in which the largest sum of absolute values of
    a row of C is 1, r is `learning_rate`.

    The weights sum to 1, so steps are as long as those of a mean of gradients. Loss weights set
    before it lengthen gradients: in w they act in reverse, as with MGDA, in g_0 as without. An
    absent task keeps its weight, which comes back scaled to the weights of the others.

    Args:
        regularization: Float >= 0. The pull c towards the mean, the paper's lambda.
        num_inner: Integer >= 1. Moves of the weights in a step.
        learning_rate: Float in (0, 2]. Length of a move; at 1 none overshoots.
        scope: `"parameters"` only.
        refresh_every: Integer >= 1. Steps from one search for weights to the next.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks, num_params)`, one gradient a row.
    Output shape: `(num_params,)`, the direction to descend.

    Raises:
        TypeError: If a number is none, or no integer where one is asked for.
        ValueError: If an option is out of its range, or `scope` is not `"parameters"`.

    Example:

    >>> gramian = [[3.0, 0.0], [0.0, 1.0]]
    >>> keras_mtl.balancing.SDMGrad(regularization=0.0).compute_weights(gramian)  # as MGDA
    [0.25, 0.75]
    >>> keras_mtl.balancing.SDMGrad(regularization=1.0).compute_weights(gramian)
    [0.25, 0.75]
    >>> keras_mtl.balancing.SDMGrad(regularization=3.0).compute_weights(gramian)
    [0.375, 0.625]

    Reference:
        Xiao, Ban, Ji 2023, Direction-oriented multi-objective learning: simple and provable
        stochastic algorithms, algorithm 1, https://arxiv.org/abs/2305.18409; regularization and
        number of moves of https://github.com/median-research-group/LibMTL, after the authors'
        https://github.com/OptMN-Lab/sdmgrad.
        Differs from the paper: two halves of one batch stand for two batches, the same for all
        moves, and their whole for a third one. The code moves by 5, with momentum, in units of
        the mean length of the gradients, at which weights can swing from corner to corner.
    """

    needs_gramian = False
    needs_cross_gramian = True
    features_reason = (
        "the two halves of a batch are different examples, whose features have no inner product."
    )

    def __init__(
        self,
        regularization: float = 0.3,
        num_inner: int = 20,
        learning_rate: float = 1.0,
        scope: str = "parameters",
        refresh_every: int = 1,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(scope=scope, refresh_every=refresh_every, name=name, **kwargs)
        self.regularization = checks.finite_number("regularization", regularization, minimum=0)
        self.num_inner = checks.positive_integer("num_inner", num_inner)
        checks.positive_number("learning_rate", learning_rate)
        self.learning_rate = checks.finite_number("learning_rate", learning_rate, maximum=2)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.task_weights = self.add_task_variable("task_weights", "ones")

    def solve(self, gramian: Any, active: Any, *, cross_gramian: Any) -> Any:
        del gramian
        active, cross = ops.cast(active, "float64"), ops.cast(cross_gramian, "float64")
        start = simplex.among(ops.cast(self.task_weights.value, "float64"), active)
        pull = self.regularization * simplex.among(ops.ones_like(start), active)
        weights = simplex.descend(
            start,
            cross,
            ops.matmul(cross, pull),
            active,
            rate=self.learning_rate,
            steps=self.num_inner,
        )
        self.task_weights.assign(simplex.put_back(self.task_weights.value, weights, active))
        return (weights + pull) / (1 + self.regularization)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "regularization": self.regularization,
            "num_inner": self.num_inner,
            "learning_rate": self.learning_rate,
        }
