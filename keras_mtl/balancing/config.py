"""One step at the same angle to every task gradient."""

from typing import Any

import keras

from keras_mtl.balancing.preferring import PreferringBalancing
from keras_mtl.core import spectral


@keras.saving.register_keras_serializable(package="keras_mtl")
class ConFIG(PreferringBalancing):
    """Descends at the same angle to every task gradient, faster where they agree.

    With unit gradients U as rows and shares p, the direction is that of pinv(U) p, whose cosines
    with the gradients are proportional to p: equal without a preference, and positive. Its
    length is the sum of the projections of the gradients on it. So steps are as long as those of
    a sum of gradients where they agree, and shorter where they conflict.

    Where gradients depend on each other linearly the cosines are the nearest to p that can be
    had; the sum of the losses never rises to first order, and the direction is 0 where gradients
    cancel. A gradient of 0 has no angle and is left out, as if its task were absent.

    The direction is the same for gradients of other lengths: nothing but the length of the step
    is left of a loss weighting set before it. Say what matters with `preference`.

    Args:
        preference: `None` for equal cosines, a sequence of numbers > 0 in the order of the
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

    >>> keras_mtl.balancing.ConFIG()([[3.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    [2.0, 2.0, 0.0]
    >>> keras_mtl.balancing.ConFIG(preference=[1.0, 3.0])([[3.0, 0.0], [0.0, 1.0]])
    [0.6, 1.8]

    Reference:
        Q. Liu, Chu, Thuerey 2025, ConFIG: towards conflict-free training of physics informed
        neural networks, section 3.1, equations 2 and 3, https://arxiv.org/abs/2408.11104;
        `preference` gives its direction weights.
        Differs from the paper: everything is computed from the Gramian, and no small constant is
        added to the lengths that divide.
    """

    weights_remark = (
        "its direction is the same for task gradients of any lengths, so nothing but the length "
        "of the step is left of the weights. Use `preference` to say which task matters more."
    )

    def solve(self, gramian: Any, active: Any) -> Any:
        return spectral.conflict_free_weights(gramian, active, self.shares(active))
