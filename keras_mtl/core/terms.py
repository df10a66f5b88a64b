"""What a backward pass differentiates."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf


class Half(NamedTuple):
    """The losses of half of the rows of a batch, for methods that compare two batches.

    Args:
        totals: List of scalars, each task's local sum of losses.
        factors: Tensor `(num_tasks,)`: effective weight over global count, of this half.
    """

    totals: Sequence[Any]
    factors: Any


class Terms(NamedTuple):
    """A step's losses as local sums, and what each is multiplied by when differentiated.

    So nothing but sums of this replica is recorded.

    Args:
        totals: List of scalars, each task's local sum of losses.
        factors: Tensor `(num_tasks,)`: effective weight over global count.
        extra: Scalar of regularisation and `add_loss` terms over replicas, or `None`.
        active: Float tensor `(num_tasks,)`, 1.0 for tasks that take part.
        scale: Float scalar, the loss scale.
        losses: Tensor `(num_tasks,)`, the raw losses over all replicas.
        halves: The two halves of the batch, where the balancing asks for them, else empty.
    """

    totals: Sequence[Any]
    factors: Any
    extra: Any
    active: Any
    scale: Any
    losses: Any
    halves: tuple[Half, ...] = ()

    @property
    def seeds(self) -> list[Any]:
        """What each total is multiplied by, loss scale included."""
        return self.seeds_of(self.factors)

    def seeds_of(self, factors: Any) -> list[Any]:
        """Returns other factors as a list, loss scale included."""
        return tf.unstack(factors * self.scale)
