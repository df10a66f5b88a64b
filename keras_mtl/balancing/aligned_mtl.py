"""Task gradients made orthogonal and equally long, as near to the given ones as can be."""

from typing import Any

import keras
from keras import ops

from keras_mtl.balancing.preferring import PreferringBalancing
from keras_mtl.core import spectral


@keras.saving.register_keras_serializable(package="keras_mtl")
class AlignedMTL(PreferringBalancing):
    """Averages the gradients after aligning their principal components.

    The Gramian G = V diag(l) V' has eigenvalues l > 0. The gradients are replaced by the nearest
    orthonormal ones, brought to length sqrt(min l), and these are averaged with shares p:
    w = sqrt(min l) V diag(l)^(-1/2) V' p. So neither conflict nor dominance is left among them.

    The shortest component sets the length: steps are shorter than those of a mean of gradients,
    by far where two gradients nearly agree or nearly cancel. Eigenvalues that rounding cannot
    tell from 0 are left out; so a duplicate gradient shortens nothing. A gradient of 0 counts in
    the mean and adds nothing.

    Of a loss weighting set before it little is left: it lengthens gradients, and lengths are made
    equal. Say what matters with `preference`.

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

    >>> keras_mtl.balancing.AlignedMTL()([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    [0.213279, 0.967334, 0.967334]
    >>> keras_mtl.balancing.AlignedMTL().compute_weights([[4.0, 0.0], [0.0, 1.0]])
    [0.25, 0.5]

    Reference:
        Senushkin, Patakin, Kuznetsov, Konushin 2023, Independent component alignment for
        multi-task learning, the minimal eigenvalue as the scale, https://arxiv.org/abs/2305.19000.
        Differs from the authors' code: shares sum to 1, where the code sums the gradients.
    """

    weights_remark = (
        "it makes the components of the task gradients equally long, so little is left of weights "
        "that lengthen them. Use `preference` to say which task matters more."
    )

    def solve(self, gramian: Any, active: Any) -> Any:
        spectrum = spectral.gramian_spectrum(spectral.gradients_of(gramian, active))
        # w = sqrt(min l) V diag(l)^(-1/2) V' p
        return ops.sqrt(spectrum.smallest) * spectrum.power(-0.5, self.shares(active))
