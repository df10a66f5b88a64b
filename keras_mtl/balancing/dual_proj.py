"""The mean gradient, projected so that it opposes no task."""

from typing import Any

import keras
from keras import ops

from keras_mtl.balancing.preferring import PreferringBalancing
from keras_mtl.core import solvers


@keras.saving.register_keras_serializable(package="keras_mtl")
class DualProj(PreferringBalancing):
    """Descends along the direction nearest to the mean gradient that opposes no task.

    With shares p, the direction d is the point nearest to sum_i p_i g_i of all that have
    g_i . d >= 0 for every task. It is sum_i w_i g_i, where w >= p minimises
    |sum_i w_i g_i|^2. Without conflict it is the mean itself, so steps are as long as those of a
    mean of gradients. A gradient of 0 counts in the mean and conflicts with none.

    A loss weighting set before it keeps its say: it shifts the mean, and long gradients
    dominate it.

    Args:
        preference: `None` for equal shares, a sequence of numbers > 0 in the order of the
            tasks, or a dict from task name to a number > 0 (1 for tasks left out). Only their
            ratios count.
        scope: `"parameters"` works on the gradients of the shared variables, `"features"` on
            those of the tensors where the shared part ends.
        refresh_every: Integer >= 1. Steps from one search for weights to the next.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks, num_params)`, one gradient a row.
    Output shape: `(num_params,)`, the direction to descend.

    Raises:
        TypeError: If `preference` is none of these.
        ValueError: If `preference` has a number that is not finite or not > 0, or `scope` is
            neither of the two.

    Example:

    >>> keras_mtl.balancing.DualProj()([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    [0.55556, 1.11111, 1.11111]
    >>> keras_mtl.balancing.DualProj().compute_weights([[18.0, -22.0], [-22.0, 38.0]])
    [0.61111, 0.5]

    Reference:
        Lopez-Paz, Ranzato 2017, Gradient episodic memory for continual learning, section 3,
        equation 8 and its dual, equation 11, https://arxiv.org/abs/1706.08840.
        Differs from the paper: the mean over all tasks is projected, as by DualProj in Quinton,
        Rey 2024, Jacobian descent for multi-objective optimization, version 3, equation 29 of
        appendix C.3, https://arxiv.org/abs/2406.16232, where the paper projects the gradient of
        one task; and no constant is added to the solution of the dual. The preference is an
        addition.
    """

    def solve(self, gramian: Any, active: Any) -> Any:
        shares = self.shares(active)
        # w = p + u with u >= 0 minimising u'Gu / 2 + (Gp)'u. In float64, so that Gp is in the
        # range of G also where one gradient is much longer than another.
        wide = ops.cast(gramian, "float64")
        linear = -ops.matmul(wide, ops.cast(shares, "float64"))
        return ops.cast(shares, gramian.dtype) + solvers.nonnegative_qp(gramian, linear)
