"""The shortest convex combination of the task gradients."""

from typing import Any

import keras

from keras_mtl.balancing.base import GramianBalancing
from keras_mtl.core import solvers


@keras.saving.register_keras_serializable(package="keras_mtl")
class MGDA(GramianBalancing):
    """Descends along the shortest convex combination of the task gradients.

    With w >= 0 and sum_i w_i = 1 minimising |sum_i w_i g_i|^2, the direction d has
    g_i . d >= |d|^2 for every task: to first order no loss rises, and d = 0 exactly where no
    direction lowers all losses (a Pareto-stationary point). One active task whose gradient is 0
    is such a point. The weights sum to 1, so steps are as long as those of a mean of gradients.

    Short gradients dominate. Loss weights set before it lengthen gradients, so they act in
    reverse: of two orthogonal gradients the one whose loss counts c times contributes c times
    less.

    Args:
        scope: `"parameters"` works on the shared variables; `"features"` on the tensors where
            the shared part ends, which is the upper bound MGDA-UB of the paper.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks, num_params)`, one gradient a row.
    Output shape: `(num_params,)`, the direction to descend.

    Raises:
        ValueError: If `scope` is neither of the two.

    Example:

    >>> keras_mtl.balancing.MGDA()([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    [0.0, 1.0, 1.0]
    >>> keras_mtl.balancing.MGDA().compute_weights([[18.0, -22.0], [-22.0, 38.0]])
    [0.6, 0.4]

    Reference:
        Desideri 2012, Multiple-gradient descent algorithm (MGDA) for multiobjective
        optimization, C. R. Acad. Sci. 350, 313-318, https://doi.org/10.1016/j.crma.2012.03.014.
        Sener, Koltun 2018, Multi-task learning as multi-objective optimization, equation 3 and,
        for the features, MGDA-UB, https://arxiv.org/abs/1810.04650.
        Differs from the paper: an active-set solver finds the exact minimum, where Frank-Wolfe
        stops near it.
    """

    def solve(self, gramian: Any, active: Any) -> Any:
        return solvers.min_norm_weights(gramian, active)
