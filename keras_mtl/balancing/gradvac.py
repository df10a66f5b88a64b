"""Gradients turned towards each other as far as they usually agree."""

from typing import Any

import keras
from keras import ops

from keras_mtl.balancing.base_gramian import GramianBalancing
from keras_mtl.core import checks

# The paper has no bound. At 1 gradients would have to be parallel: 22 times the other is added.
LARGEST_TARGET = 0.999
# Less than rounding leaves of the square of a gradient that another one cancels.
CANCELLED = {"float32": 1e-6, "float64": 1e-12}


@keras.saving.register_keras_serializable(package="keras_mtl")
class GradVac(GramianBalancing):
    """Turns each gradient towards those it agrees with less than usual, and sums.

    For each task i, p = g_i meets the other gradients g_j in random order. Let c be the cosine of
    p and g_j, and t the target of the pair, a moving average of its cosines that starts at 0.
    Where c < t, the multiple of g_j is added to p that brings the cosine to t:
    |p| / |g_j| (t sqrt(1 - c^2) / sqrt(1 - t^2) - c). Then t becomes (1 - beta) t + beta c.
    The direction is the sum of the p: where cosines are as high as usual, the sum of the
    gradients. With `beta=0` it is `pcgrad`. A gradient of 0 meets none.

    A loss weighting set before it lengthens gradients as in a plain sum; cosines and targets
    stay. Targets of pairs with an absent task do not move.

    Args:
        beta: Float from 0 to 1. How much the last cosine counts in the target.
        seed: Optional integer. Starts the sequence of orders; by default it differs each time.
        scope: `"parameters"` works on the gradients of the shared variables, `"features"` on
            those of the tensors where the shared part ends.
        refresh_every: Integer >= 1. Steps from one search for weights to the next.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks, num_params)`, one gradient a row.
    Output shape: `(num_params,)`, the direction to descend.

    Raises:
        TypeError: If `beta` is no number, or `seed` no integer.
        ValueError: If `beta` is not from 0 to 1, `scope` is neither of the two, or `seed` has
            more than 64 bits.

    Example:

    >>> balancing = keras_mtl.balancing.GradVac()
    >>> balancing.compute_weights([[1.0, 0.6], [0.6, 1.0]])  # targets become 0.3
    [1.0, 1.0]
    >>> balancing.compute_weights([[1.0, 0.0], [0.0, 1.0]])  # 0.3 / sqrt(1 - 0.3^2) is added
    [1.31449, 1.31449]

    Reference:
        Z. Wang, Tsvetkov, Firat, Y. Cao 2021, Gradient Vaccine: investigating and improving
        multi-task optimization in massively multilingual models, algorithm 1,
        https://arxiv.org/abs/2010.05874.
        Differs from the paper: one cosine a pair for all shared variables together, where the
        paper may take them layer by layer; and targets act as 0.999 at most.
    """

    random = (
        "Each task meets the others in an order drawn at random, so with three or more tasks a "
        "permutation of the tasks permutes the distribution of the weights, not each draw."
    )

    def __init__(
        self,
        beta: float = 0.5,
        seed: int | None = None,
        scope: str = "parameters",
        refresh_every: int = 1,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(scope=scope, refresh_every=refresh_every, name=name, **kwargs)
        self.beta = checks.finite_number("beta", beta, minimum=0.0, maximum=1.0)
        self.seed = checks.seed("seed", seed)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        # Not before: under a strategy each replica needs its own copy, to draw the same orders.
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        # An entry a pair of tasks: no task variable, whose entries the model would look after.
        self.targets = self.add_weight(
            shape=(self.num_tasks, self.num_tasks),
            initializer="zeros",
            trainable=False,
            name="targets",
            aggregation="only_first_replica",
        )

    def solve(self, gramian: Any, active: Any) -> Any:
        size = gramian.shape[0]
        rounding = CANCELLED[gramian.dtype.name]
        gramian, active = ops.cast(gramian, "float64"), ops.cast(active, "float64")
        lengths = ops.sqrt(ops.maximum(ops.diagonal(gramian), 0))
        usable = ops.logical_and(active > 0, lengths > 0)
        pairs = ops.logical_and(usable[:, None], usable[None, :])
        pairs = ops.logical_and(pairs, ops.logical_not(ops.eye(size, dtype="bool")))
        orders = self._draw_orders(size)

        # Row i holds p as a combination of the gradients; all tasks take a step at once.
        def meet(position: Any, state: tuple[Any, Any]) -> tuple[Any, Any]:
            combinations, targets = state
            met = ops.take(orders, position, axis=1)
            products = ops.matmul(combinations, gramian)
            squares = ops.sum(combinations * products, axis=1)
            left = squares > rounding * lengths**2
            one = ops.logical_and(ops.one_hot(met, size, dtype="bool"), pairs)
            one = ops.logical_and(one, left[:, None])
            lengths_of_p = ops.sqrt(ops.where(left, squares, 1))[:, None]
            others = ops.where(usable, lengths, 1)[None, :]
            cosines = ops.clip(products / (lengths_of_p * others), -1, 1)
            added = lengths_of_p / others * _share_to_add(cosines, targets)
            moved = (1 - self.beta) * targets + self.beta * cosines
            return combinations + ops.where(one, added, 0), ops.where(one, moved, targets)

        start = (ops.eye(size, dtype="float64"), ops.cast(self.targets.value, "float64"))
        combinations, targets = ops.fori_loop(0, size, meet, start)
        self.targets.assign(ops.cast(targets, "float32"))
        return ops.matmul(active, combinations)

    def _draw_orders(self, size: int) -> Any:
        """Returns `(num_tasks, num_tasks)` indices: in row i, the order in which i meets others."""
        draws = keras.random.uniform((size, size), dtype="float32", seed=self.seed_generator)
        return ops.argsort(draws, axis=1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "beta": self.beta, "seed": self.seed}


def _share_to_add(cosines: Any, targets: Any) -> Any:
    """Returns what multiple of g_j / |g_j|, over |p|, brings a cosine up to its target."""
    target = ops.minimum(targets, LARGEST_TARGET)
    tangent = target / ops.sqrt(1 - target**2)
    wanted = tangent * ops.sqrt(1 - cosines**2) - cosines
    return ops.where(cosines < target, wanted, 0)
