"""The direction that maximises an alpha-fair utility of the tasks' gains."""

from typing import Any

import keras
from keras import ops

from keras_mtl.balancing.base_gramian import GramianBalancing
from keras_mtl.core import bargaining, checks

MIN_ALPHA, MAX_ALPHA = 1e-3, 100.0


@keras.saving.register_keras_serializable(package="keras_mtl")
class FairGrad(GramianBalancing):
    """Descends along the direction that is alpha-fair to the tasks.

    Of all directions of one length it takes the one that maximises the sum of
    (g_i . d)^(1 - alpha) / (1 - alpha): the weights w > 0 fulfil G w = w^(-1 / alpha), with
    G_ij = g_i . g_j, so every task gains. With alpha near 0 it is the sum of the gradients,
    projected so that it opposes no task; with alpha = 1 the Nash bargain, `NashMTL` without
    clipping; the larger alpha, the more counts the task that gains least.

    Where all gradients are c times as long, the direction is c^((1 - alpha) / (1 + alpha))
    times: like a sum of gradients for small alpha, not at all for 1, and shorter for larger ones.
    The loss weight c acts on the contribution of a task in the same power where gradients are
    orthogonal. A gradient of 0 is left out, as if its task were absent. Where a convex combination
    of the gradients is 0 no weights fulfil the condition: they are large and finite, and the
    direction is nearly 0.

    Args:
        alpha: Float in [0.001, 100], how fair. 1 is proportional fairness.
        scope: `"parameters"` works on the gradients of the shared variables, `"features"` on
            those of the tensors where the shared part ends.
        refresh_every: Integer >= 1. Steps from one search for weights to the next.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks, num_params)`, one gradient a row.
    Output shape: `(num_params,)`, the direction to descend.

    Raises:
        TypeError: If `alpha` is no number.
        ValueError: If `alpha` is out of range, or `scope` is neither of the two.

    Example:

    >>> keras_mtl.balancing.FairGrad()([[3.0, 0.0], [0.0, 0.5]])
    [1.0, 1.0]
    >>> keras_mtl.balancing.FairGrad(alpha=2.0).compute_weights([[8.0, 0.0], [0.0, 0.125]])
    [0.25, 4.0]

    Reference:
        Ban, Ji 2024, Fair resource allocation in multi-task learning, equation 4 and
        algorithm 1, https://arxiv.org/abs/2402.15638.
        Differs from the paper: Newton's method solves the condition exactly, where the authors'
        code stops a least-squares search near it, multiplies by the number of tasks and clips.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        scope: str = "parameters",
        refresh_every: int = 1,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(scope, refresh_every, name, **kwargs)
        self.alpha = checks.finite_number("alpha", alpha, minimum=MIN_ALPHA, maximum=MAX_ALPHA)

    @property
    def weights_remark(self) -> str | None:
        """What becomes of a loss weighting before it."""
        if self.alpha < 1:
            return None
        fate = "undoes" if self.alpha == 1 else "reverses"
        return (
            f"alpha = {self.alpha:g} {fate} positive factors of the losses in what the shared "
            "layers learn; the heads keep them. With alpha < 1 they would have their say."
        )

    def solve(self, gramian: Any, active: Any) -> Any:
        powers = ops.cast(active > 0, gramian.dtype)
        return bargaining.bargaining_weights(gramian, powers, exponent=1 / self.alpha)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "alpha": self.alpha}
