"""Conflicting gradients projected onto each other's normal planes."""

from typing import Any

import keras
from keras import ops

from keras_mtl.balancing.base_gramian import GramianBalancing
from keras_mtl.core import checks


@keras.saving.register_keras_serializable(package="keras_mtl")
class PCGrad(GramianBalancing):
    """Takes out of each gradient what conflicts with another one, and sums.

    For each task i, p = g_i meets the other gradients in random order, and where p . g_j < 0
    becomes p - (p . g_j / |g_j|^2) g_j. The direction is the sum of the p: without conflict
    the sum of the gradients, as in plain training. A gradient of 0 conflicts with none.

    Args:
        scope: `"parameters"` works on the gradients of the shared variables, `"features"` on
            those of the tensors where the shared part ends.
        seed: Optional integer. Starts the sequence of orders; by default it differs each time.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks, num_params)`, one gradient a row.
    Output shape: `(num_params,)`, the direction to descend.

    Raises:
        TypeError: If `seed` is no integer.
        ValueError: If `scope` is neither of the two, or `seed` has more than 64 bits.

    Example:

    >>> keras_mtl.balancing.PCGrad()([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    [0.5848, 3.80117, 3.80117]
    >>> keras_mtl.balancing.PCGrad().compute_weights([[18.0, -22.0], [-22.0, 38.0]])
    [2.22222, 1.57895]

    Reference:
        Yu, Kumar, Gupta, Levine, Hausman, Finn 2020, Gradient surgery for multi-task learning,
        algorithm 1, https://arxiv.org/abs/2001.06782.
    """

    random = (
        "Each task meets the others in an order drawn at random, so with three or more tasks a "
        "permutation of the tasks permutes the distribution of the weights, not each draw."
    )

    def __init__(
        self,
        scope: str = "parameters",
        seed: int | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(scope=scope, name=name, **kwargs)
        self.seed = checks.seed("seed", seed)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        # Not before: under a strategy each replica needs its own copy, to draw the same orders.
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    def solve(self, gramian: Any, active: Any) -> Any:
        size = gramian.shape[0]
        active = ops.cast(active, gramian.dtype)
        orders = self._draw_orders(size)
        lengths = ops.diagonal(gramian)
        usable = ops.logical_and(active > 0, lengths > 0)
        others = ops.logical_and(usable, ops.logical_not(ops.eye(size, dtype="bool")))

        # Row i holds p as a combination of the gradients; all tasks take a step at once.
        def meet(position: Any, combinations: Any) -> Any:
            met = ops.take(orders, position, axis=1)
            inner = ops.sum(combinations * ops.take(gramian, met, axis=0), axis=1)
            partner = ops.logical_and(ops.one_hot(met, size, dtype="bool"), others)
            conflict = ops.minimum(inner, 0)[:, None]
            return combinations - ops.where(partner, conflict / ops.where(usable, lengths, 1), 0)

        combinations = ops.fori_loop(0, size, meet, ops.eye(size, dtype=gramian.dtype))
        return ops.matmul(active, combinations)

    def _draw_orders(self, size: int) -> Any:
        """Returns `(num_tasks, num_tasks)` indices: in row i, the order in which i meets others."""
        draws = keras.random.uniform((size, size), dtype="float32", seed=self.seed_generator)
        return ops.argsort(draws, axis=1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "seed": self.seed}
