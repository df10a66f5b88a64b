"""Each task gradient projected so that it opposes no task, then averaged."""

from typing import Any

import keras
from keras import ops

from keras_mtl.balancing.preferring import PreferringBalancing
from keras_mtl.core import solvers


@keras.saving.register_keras_serializable(package="keras_mtl")
class UPGrad(PreferringBalancing):
    """Averages task gradients, each projected so that it opposes no task.

    The projection of g_i is the point nearest to g_i of all d with g_j . d >= 0 for every task
    j; the direction is the mean of the projections, or with shares p their sum weighted with p.
    So no loss rises to first order, and the direction is linear in the length of each gradient:
    no task is favoured or held back for being long or short beyond that. Without conflict it is
    the mean, so steps are as long as those of a mean of gradients. A gradient of 0 counts in
    the mean and conflicts with none.

    A loss weighting set before it keeps its say: c times the loss is c times that task's
    projection.

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

    >>> keras_mtl.balancing.UPGrad()([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    [0.292398, 1.90058, 1.90058]
    >>> keras_mtl.balancing.UPGrad().compute_weights([[18.0, -22.0], [-22.0, 38.0]])
    [1.11111, 0.789474]

    Reference:
        Quinton, Rey 2024, Jacobian descent for multi-objective optimization, section 2.3 of
        version 3: equations 3 and 4, and by proposition 1 their dual, equations 5 and 6,
        https://arxiv.org/abs/2406.16232.
        Differs from the authors' code: the quadratic programs are solved exactly, without its
        regularizer, which shows where lengths differ.
    """

    def solve(self, gramian: Any, active: Any) -> Any:
        shares = ops.cast(self.shares(active), gramian.dtype)
        # Row i projects g_i: w = e_i + u with u >= 0 minimising u'Gu / 2 + (G e_i)'u.
        raised = solvers.nonnegative_qp(gramian, -ops.cast(gramian, "float64"))
        return shares + ops.matmul(shares, raised)
