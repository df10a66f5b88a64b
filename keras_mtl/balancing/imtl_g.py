"""One step with the same part along each task gradient, however long the gradients are."""

from typing import Any

import keras
from keras import ops

from keras_mtl.balancing.base_gramian import GramianBalancing
from keras_mtl.core import spectral

# The paper has no bound: the sum of a may be as small as it likes.
LARGEST = 100.0


@keras.saving.register_keras_serializable(package="keras_mtl")
class IMTLG(GramianBalancing):
    """Descends equally along every task gradient, whatever its length.

    The direction d = sum_i w_i g_i has the same projection d . g_i / |g_i| on each gradient, and
    sum_i w_i = 1. With Gramian G and lengths n, that is a = pinv(G) n and w = a / sum_i a_i.
    The weights sum to 1, so steps are as long as those of a mean of gradients.

    Where sum_i a_i < 0 (one in thirty random triples of gradients), these projections are all
    negative: every loss would rise. There w = -a / sum_i a_i: all projections are positive, and
    equal. Near a sum of 0 steps would have any length: a is divided by no less than what makes
    sum_i |w_i| = 100.

    Where gradients depend on each other linearly there may be no equal projections; then d is
    what comes nearest, and 0 where gradients cancel. A gradient of 0 has no projection and is
    left out, as if its task were absent.

    The direction is the same for gradients of other lengths: nothing but the length of the step
    is left of a loss weighting set before it.

    Args:
        scope: `"parameters"` works on the gradients of the shared variables, `"features"` on
            those of the tensors where the shared part ends.
        refresh_every: Integer >= 1. Steps from one search for weights to the next.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks, num_params)`, one gradient a row.
    Output shape: `(num_params,)`, the direction to descend.

    Raises:
        ValueError: If `scope` is neither of the two.

    Example:

    >>> keras_mtl.balancing.IMTLG()([[3.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    [0.75, 0.75, 0.0]
    >>> keras_mtl.balancing.IMTLG().compute_weights([[9.0, 0.0], [0.0, 1.0]])
    [0.25, 0.75]

    Reference:
        L. Liu, Y. Li, Kuang, Xue, Y. Chen, W. Yang, Liao, W. Zhang 2021, Towards impartial
        multi-task learning, https://openreview.net/forum?id=IMPnRXEWpvr: the balance of
        gradients, IMTL-G, which the paper combines with a balance of losses, IMTL-L.
        Differs from the paper: pinv(G), where it inverts a matrix of differences that linearly
        dependent gradients make singular; and the guard of a sum that is not positive.
    """

    weights_remark = (
        "its direction is the same for task gradients of any lengths, so nothing but the length "
        "of the step is left of the weights."
    )

    def solve(self, gramian: Any, active: Any) -> Any:
        gradients = spectral.gradients_of(gramian, active)
        raw = spectral.pseudo_inverse_of_lengths(gradients)
        largest = ops.sum(ops.abs(raw))
        # w = a / sum(a), turned round where the sum is negative, and bounded.
        total = ops.maximum(ops.abs(ops.sum(raw)), largest / LARGEST)
        return raw / ops.where(total > 0, total, 1)
