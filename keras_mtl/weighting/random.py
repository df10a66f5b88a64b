"""Weights drawn anew for every step."""

from typing import Any

import keras
from keras import ops

from keras_mtl.core import checks
from keras_mtl.core.random_shares import DISTRIBUTIONS, draw_shares
from keras_mtl.weighting.base import LossWeighting


@keras.saving.register_keras_serializable(package="keras_mtl")
class Random(LossWeighting):
    """Weights tasks at random, drawing anew in every step.

    The total is sum_i w_i L_i, with w = softmax(z) over the active tasks and one number z_i a
    task. The weights are positive and sum to 1, so each is 1 / m on average over m active
    tasks: the steps are m times shorter than those of the plain sum, which a learning rate m
    times higher makes up for. The losses play no part in w. Each call draws, `compute_weights`
    too. A user's constants `loss_weights` multiply the weights, as they do equal ones.

    Args:
        distribution: `"normal"` draws z from N(0, 1); `"dirichlet"` draws w uniformly from all
            weights that sum to 1, Dirichlet(1, ..., 1), where weights near 0 are more frequent.
        seed: Optional integer. Starts the sequence of draws; by default it differs each time.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks,)`, mean losses, unscaled.
    Output shape: `()`, the total.

    Raises:
        ValueError: If `distribution` is neither of the two, or (once it is built) if `seed` is
            no integer.

    Example:

    >>> weights = keras_mtl.weighting.Random().compute_weights([4.0, 1.0, 2.0])
    >>> np.sum(weights)
    1.0

    Reference:
        B. Lin, Ye, Zhang, Tsang 2022, Reasonable effectiveness of random weighting: a litmus
        test for multi-task learning, https://arxiv.org/abs/2111.10603: random loss weighting.
        Differs from the paper: where tasks are absent, the weights of the others sum to 1.
    """

    random = (
        "Weights are drawn without a look at the losses, so a permutation of the tasks permutes "
        "the distribution of the weights, not each draw."
    )
    draws_blindly = True

    def __init__(
        self,
        distribution: str = "normal",
        seed: int | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        checks.one_of("distribution", distribution, DISTRIBUTIONS)
        self.distribution = distribution
        self.seed = checks.seed("seed", seed)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        # Not before: under a strategy each replica needs its own copy, to draw the same numbers.
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    def call(self, task_losses: Any, active: Any) -> Any:
        weights = draw_shares(self.distribution, active, self.seed_generator)
        return ops.sum(weights * task_losses)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "distribution": self.distribution, "seed": self.seed}
