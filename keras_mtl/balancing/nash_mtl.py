"""The bargain between tasks in which no one can gain relatively more than others lose."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_mtl.balancing.preferring import PreferringBalancing
from keras_mtl.core import bargaining, checks


@keras.saving.register_keras_serializable(package="keras_mtl")
class NashMTL(PreferringBalancing):
    """Descends along the Nash bargaining solution of the tasks.

    Of all directions of one length it takes the one that maximises sum_i log(g_i . d): the
    weights w > 0 fulfil G w = 1 / w, with G_ij = g_i . g_j. Every task gains, and the same
    relatively: w_i g_i . d = 1. With a preference, G w = p / w, where p are the shares times the
    number of tasks that take part.

    Before it is clipped the direction is as long as the square root of their number, whatever
    the lengths of the gradients, so positive factors of the losses, such as those of a loss
    weighting, change nothing but the heads. Steps do not shrink near an optimum by themselves:
    use Adam, or let the learning rate decay. A gradient of 0 is left out, as if its task were
    absent. Where a convex combination of the gradients is 0 there is no bargain: the weights are
    large and finite, and the direction is nearly 0.

    Args:
        max_norm: Float > 0. The longest direction; a longer one is scaled down to it. `None`
            clips nothing.
        preference: `None` for equal bargaining powers, a sequence of numbers > 0 in the order of
            the tasks, or a dict from task name to a number > 0 (1 for tasks left out). Only
            their ratios count.
        scope: `"parameters"` works on the gradients of the shared variables, `"features"` on
            those of the tensors where the shared part ends, whose norm is clipped then.
        refresh_every: Integer >= 1. Steps from one search for weights to the next.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks, num_params)`, one gradient a row.
    Output shape: `(num_params,)`, the direction to descend.

    Raises:
        TypeError: If `max_norm` or `preference` is none of these.
        ValueError: If `max_norm` or a number of `preference` is not finite or not > 0, or `scope`
            is neither of the two.

    Example:

    >>> keras_mtl.balancing.NashMTL()([[3.0, 0.0], [0.0, 0.5]])
    [0.70711, 0.70711]
    >>> keras_mtl.balancing.NashMTL(max_norm=None).compute_weights([[9.0, 0.0], [0.0, 0.25]])
    [0.33333, 2.0]

    Reference:
        Navon, Shamsian, Achituve, Maron, Kawaguchi, Chechik, Fetaya 2022, Multi-task learning as
        a bargaining game, claim 3.1 and algorithm 1; equation 2 is the condition for one task,
        https://arxiv.org/abs/2202.01017; `max_norm` is that of the authors' code.
        Differs from the paper: Newton's method solves the condition exactly, where a sequence of
        convex programs, section 3.2, stops near a solution. Differs from the authors' code: there
        the heads learn with the weights too. The preference is an addition.
    """

    weights_remark = (
        "the bargain undoes positive factors of the losses, so they change how the heads learn "
        "and nothing else. `preference` of NashMTL shifts the bargain."
    )

    def __init__(
        self,
        max_norm: float | None = 1.0,
        preference: Sequence[float] | Mapping[str, float] | None = None,
        scope: str = "parameters",
        refresh_every: int = 1,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(preference, scope, refresh_every, name, **kwargs)
        self.max_norm = None if max_norm is None else checks.positive_number("max_norm", max_norm)

    def solve(self, gramian: Any, active: Any) -> Any:
        taking_part = ops.logical_and(active > 0, ops.diagonal(gramian) > 0)
        taking_part = ops.cast(taking_part, gramian.dtype)
        powers = ops.sum(taking_part) * self.shares(taking_part)
        weights = bargaining.bargaining_weights(gramian, powers)
        return weights if self.max_norm is None else self._clip(weights, gramian)

    def _clip(self, weights: Any, gramian: Any) -> Any:
        # |sum_i w_i g_i|^2 = w'Gw; squares may leave float32.
        wide, matrix = ops.cast(weights, "float64"), ops.cast(gramian, "float64")
        square = ops.maximum(ops.dot(wide, ops.matmul(matrix, wide)), 0.0)
        factor = self.max_norm / ops.maximum(ops.sqrt(square), self.max_norm)
        return weights * ops.cast(factor, weights.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "max_norm": self.max_norm}
