"""Gradients weighted anew at random in every step."""

from typing import Any

import keras
from keras import ops

from keras_mtl.balancing.base_gramian import GramianBalancing
from keras_mtl.core import checks
from keras_mtl.core.random_shares import DISTRIBUTIONS, draw_shares


# The loss weighting of this name is registered as `Random`.
@keras.saving.register_keras_serializable(package="keras_mtl", name="RandomBalancing")
class Random(GramianBalancing):
    """Weights task gradients at random, drawing anew in every step.

    The direction is sum_i w_i g_i with w = softmax(z) over the active tasks and one number z_i a
    task. Unlike random loss weighting it leaves the heads alone: only what is shared learns with
    these weights. They are positive and sum to 1, so steps are as long as those of a mean of
    gradients, and a loss weighting set before it keeps its say.

    Args:
        distribution: `"normal"` draws z from N(0, 1); `"dirichlet"` draws w uniformly from all
            weights that sum to 1, Dirichlet(1, ..., 1), where weights near 0 are more frequent.
        seed: Optional integer. Starts the sequence of draws; by default it differs each time.
        scope: `"parameters"` works on the gradients of the shared variables, in one backward pass
            of the weighted losses; `"features"` on those of the tensors where the shared part
            ends: the same direction.
        refresh_every: Integer >= 1. Steps from one draw to the next.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks, num_params)`, one gradient a row.
    Output shape: `(num_params,)`, the direction to descend.

    Raises:
        TypeError: If `seed` is no integer.
        ValueError: If `distribution` or `scope` is not one of the two, or `seed` has more than 64
            bits.

    Example:

    >>> np.sum(keras_mtl.balancing.Random().compute_weights([[1.0, 0.0], [0.0, 1.0]]))
    1.0

    Reference:
        B. Lin, Ye, Zhang, Tsang 2022, Reasonable effectiveness of random weighting: a litmus
        test for multi-task learning, https://arxiv.org/abs/2111.10603: random gradient weighting.
        Differs from the paper: where tasks are absent, the weights of the others sum to 1.
    """

    random = (
        "Weights are drawn without a look at the gradients, so a permutation of the tasks permutes "
        "the distribution of the weights, not each draw."
    )
    draws_blindly = True
    needs_gramian = False

    def __init__(
        self,
        distribution: str = "normal",
        seed: int | None = None,
        scope: str = "parameters",
        refresh_every: int = 1,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(scope=scope, refresh_every=refresh_every, name=name, **kwargs)
        checks.one_of("distribution", distribution, DISTRIBUTIONS)
        self.distribution = distribution
        self.seed = checks.seed("seed", seed)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        # Not before: under a strategy each replica needs its own copy, to draw the same numbers.
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    def solve(self, gramian: Any, active: Any) -> Any:
        del gramian
        return draw_shares(self.distribution, ops.cast(active, "float32"), self.seed_generator)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "distribution": self.distribution, "seed": self.seed}
