"""The direction near the mean gradient that helps the worst-off task most."""

from typing import Any

import keras

from keras_mtl.balancing.base_gramian import GramianBalancing
from keras_mtl.core import checks, conflict_averse

RESCALES = (None, "1+c^2", "1+c")


@keras.saving.register_keras_serializable(package="keras_mtl")
class CAGrad(GramianBalancing):
    """Descends near the mean gradient, where the worst-off task gains most.

    Of all d with |d - g_0| <= c |g_0|, g_0 the mean of the gradients, it takes the one with the
    greatest min_i g_i . d. That is d = g_0 + c |g_0| g_w / |g_w|, where g_w = sum_i w_i g_i and w
    on the simplex minimises g_w . g_0 + c |g_0| |g_w|. With c = 0 it is the mean; with c < 1 it
    descends the mean loss, and the larger c, the more it looks to the worst-off task.

    Steps are as long as those of a mean of gradients, up to 1 + c times. A loss weighting set
    before it keeps its say: it shifts the mean. A gradient of 0 is left out, as if its task were
    absent. Where the least gain can be no more than 0, many directions reach it; of these it is
    the nearest to g_0, and it opposes no task.

    Args:
        c: Float in [0, 1e6]. How far from the mean the direction may be, relative to its length.
        rescale: `None` for d itself, or `"1+c^2"` or `"1+c"`, by which d is divided, so that
            steps are not longer than those of the mean where the tasks agree (`"1+c"`) or by
            less (`"1+c^2"`).
        scope: `"parameters"` works on the gradients of the shared variables, `"features"` on
            those of the tensors where the shared part ends.
        refresh_every: Integer >= 1. Steps from one search for weights to the next.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks, num_params)`, one gradient a row.
    Output shape: `(num_params,)`, the direction to descend.

    Raises:
        TypeError: If `c` is no number.
        ValueError: If `c` is not in [0, 1e6], `rescale` is none of the three, or `scope` is
            neither of the two.

    Example:

    >>> keras_mtl.balancing.CAGrad()([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    [0.1835, 1.20412, 1.20412]
    >>> keras_mtl.balancing.CAGrad(c=0.0).compute_weights([[18.0, -22.0], [-22.0, 38.0]])
    [0.5, 0.5]

    Reference:
        B. Liu, X. Liu, Jin, Stone, Q. Liu 2021, Conflict-averse gradient descent for multi-task
        learning, algorithm 1, https://arxiv.org/abs/2110.14048; the authors' code numbers the
        three of `rescale` 0, 1 and 2 and has 1 as its default.
        Differs from the paper: the minimum is exact, where the authors' code stops a general
        search near it and adds small constants under the roots.
    """

    def __init__(
        self,
        c: float = 0.5,
        rescale: str | None = None,
        scope: str = "parameters",
        refresh_every: int = 1,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(scope, refresh_every, name, **kwargs)
        self.c = checks.finite_number("c", c, minimum=0.0, maximum=1e6)
        checks.one_of("rescale", rescale, RESCALES)
        self.rescale = rescale

    def solve(self, gramian: Any, active: Any) -> Any:
        weights = conflict_averse.conflict_averse_weights(gramian, active, self.c)
        divisors = {None: 1.0, "1+c^2": 1 + self.c**2, "1+c": 1 + self.c}
        return weights / divisors[self.rescale]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "c": self.c, "rescale": self.rescale}
