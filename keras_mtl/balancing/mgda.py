"""The shortest convex combination of the task gradients."""

from typing import Any

import keras
from keras import ops

from keras_mtl.balancing.base_gramian import GramianBalancing
from keras_mtl.core import checks, solvers

NORMALIZATIONS = (None, "l2", "loss", "loss+")


@keras.saving.register_keras_serializable(package="keras_mtl")
class MGDA(GramianBalancing):
    """Descends along the shortest convex combination of the task gradients.

    With w >= 0 and sum_i w_i = 1 minimising |sum_i w_i g_i|^2, the direction d has
    g_i . d >= |d|^2 for every task: to first order no loss rises, and d = 0 exactly where no
    direction lowers all losses (a Pareto-stationary point). One active task whose gradient is 0
    is such a point. The weights sum to 1, so steps are as long as those of a mean of gradients.

    Short gradients dominate. Loss weights set before it lengthen gradients, so they act in
    reverse: of two orthogonal gradients the one whose loss counts c times contributes c times
    less. `normalize` changes the lengths first; the direction is a combination of the gradients
    so divided.

    Args:
        normalize: `None`, or by what each gradient is divided: `"l2"` by its length, `"loss"` by
            its task's loss, `"loss+"` by both. A gradient of 0 stays 0, and a loss not above 0
            divides by 1.
        scope: `"parameters"` works on the shared variables; `"features"` on the tensors where
            the shared part ends, which is the upper bound MGDA-UB of the paper.
        refresh_every: Integer >= 1. Steps from one search for weights to the next.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks, num_params)`, one gradient a row; with `"loss"` and `"loss+"` also
        `losses`, the raw task losses.
    Output shape: `(num_params,)`, the direction to descend.

    Raises:
        ValueError: If `normalize` or `scope` is none of these.

    Example:

    >>> keras_mtl.balancing.MGDA()([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    [0.0, 1.0, 1.0]
    >>> keras_mtl.balancing.MGDA().compute_weights([[18.0, -22.0], [-22.0, 38.0]])
    [0.6, 0.4]
    >>> keras_mtl.balancing.MGDA("l2")([[3.0, 0.0], [0.0, 0.5]])
    [0.5, 0.5]

    Reference:
        Desideri 2012, Multiple-gradient descent algorithm (MGDA) for multiobjective
        optimization, C. R. Acad. Sci. 350, 313-318, https://doi.org/10.1016/j.crma.2012.03.014.
        Sener, Koltun 2018, Multi-task learning as multi-objective optimization, equation 3 and,
        for the features, MGDA-UB, https://arxiv.org/abs/1810.04650; `normalize` is
        the `normalization_type` of the authors' code.
        Differs from the paper: an active-set solver finds the exact minimum, where Frank-Wolfe
        stops near it.
    """

    def __init__(
        self,
        normalize: str | None = None,
        scope: str = "parameters",
        refresh_every: int = 1,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(scope=scope, refresh_every=refresh_every, name=name, **kwargs)
        checks.one_of("normalize", normalize, NORMALIZATIONS)
        self.normalize = normalize
        self.needs_losses = normalize in ("loss", "loss+")

    def solve(self, gramian: Any, active: Any, losses: Any = None) -> Any:
        if self.normalize is None:
            return solvers.min_norm_weights(gramian, active)
        wide = ops.cast(gramian, "float64")
        divisors = ops.cast(self._divisors(wide, losses), "float64")
        divided = wide / divisors[:, None] / divisors[None, :]
        # As in the Gramian's own dtype, which tells the solver how exact the entries are.
        weights = solvers.min_norm_weights(ops.cast(divided, gramian.dtype), active)
        return ops.cast(weights, "float64") / divisors

    def _divisors(self, gramian: Any, losses: Any) -> Any:
        lengths = ops.sqrt(ops.maximum(ops.diagonal(gramian), 0.0))
        lengths = ops.where(lengths > 0, lengths, 1.0)
        if losses is None:
            return lengths
        losses = ops.cast(losses, "float64")
        losses = ops.where(losses > 0, losses, 1.0)
        return losses if self.normalize == "loss" else losses * lengths

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "normalize": self.normalize}
