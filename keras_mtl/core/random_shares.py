"""Shares of the active tasks, drawn at random."""

import math
from typing import Any

from keras import ops

from keras_mtl.core import draws

DISTRIBUTIONS = ("normal", "dirichlet")
# Keeps uniform numbers from 0 and 1, whose -log is no positive number.
MARGIN = 1e-7
# Far below any sum of drawn numbers: what divides when all tasks are absent.
TINY = 1e-30


def draw_shares(distribution: str, active: Any, seed_generator: Any) -> Any:
    """Draws positive shares `(num_tasks,)` that sum to 1 over the active tasks, 0 for the others.

    Args:
        distribution: `"normal"` for the softmax of numbers from N(0, 1), `"dirichlet"` for
            Dirichlet(1, ..., 1).
        active: Float32 tensor `(num_tasks,)`, 1.0 for tasks that take part.
        seed_generator: A `SeedGenerator`.
    """
    # The first active task gets the first number, and so on: the numbers of the others are
    # those that they would get without the absent tasks.
    position = ops.maximum(ops.cumsum(active) - 1.0, 0.0)
    numbers = _draw(distribution, active.shape[0], seed_generator)
    numbers = active * ops.take(numbers, ops.cast(position, "int32"))
    return numbers / ops.maximum(ops.sum(numbers), TINY)


def _draw(distribution: str, size: int, seed_generator: Any) -> Any:
    """Returns positive numbers, in proportion to which tasks are weighted."""
    if distribution == "normal":
        return ops.exp(normal(size, seed_generator))
    # -log u is exponential; exponential numbers divided by their sum are Dirichlet(1, ...).
    return -ops.log(ops.clip(uniform(size, seed_generator), MARGIN, 1.0 - MARGIN))


def uniform(size: int, seed_generator: Any) -> Any:
    """Draws numbers from 0 up to 1."""
    return draws.uniform(size, seed_generator)


def normal(size: int, seed_generator: Any) -> Any:
    """Draws numbers from N(0, 1), by the method of Box and Muller."""
    # In pairs side by side: the first numbers do not depend on how many are drawn.
    pairs = ops.reshape(draws.uniform(2 * size, seed_generator), (size, 2))
    radius = ops.sqrt(-2.0 * ops.log(ops.maximum(pairs[:, 0], MARGIN)))
    return radius * ops.cos(2.0 * math.pi * pairs[:, 1])
