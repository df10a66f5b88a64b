"""Hands task gradients to a gradient balancing and takes the direction back."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from keras_mtl.core import update
from keras_mtl.core.terms import Terms

# On 2 cores the Gramian of 16 rows of 131,072 takes 0.8 ms by sixes and 3.0 ms in one product.
# Short rows gain nothing, and a network has many short variables.
ROWS_AT_ONCE, LONG_ROW = 6, 4096


class Balanced(NamedTuple):
    """What a balancing has made of the task gradients.

    Args:
        directions: List of tensors `(size,)`, one a part.
        heads: Weights of the private gradients `(num_tasks,)`, or `None` for 1 each.
    """

    directions: list[Any]
    heads: Any


class SummedRows:
    """Adds up the gradients of the active tasks: no balancing, where tasks must be told apart."""

    needs_gramian = needs_losses = needs_one_task = needs_features = weights_heads = False
    needs_cross_gramian = needs_cross_products = False
    refresh_every = 1
    task_variables: tuple[Any, ...] = ()
    non_trainable_variables: tuple[Any, ...] = ()

    def more(self, **evidence: Any) -> dict[str, Any]:
        """Returns what is needed beyond the gradients: nothing."""
        del evidence
        return {}

    def balance(
        self, gradients: Sequence[Any], gramian: Any, active: Any
    ) -> tuple[list[Any], None]:
        """Returns the sum of the rows of each part."""
        del gramian
        return [tf.tensordot(active, part, axes=1) for part in gradients], None


def products_for(balancing: Any, parts: Sequence[Any]) -> Any:
    """Returns the Gramian of the rows where the balancing reads it; else sums of the rows.

    Both add up over parts, and show a number that is not finite. The sums are read off faster.
    """
    if balancing.needs_gramian:
        return gramian_of(parts)
    return tf.add_n([tf.reduce_sum(part, axis=1) for part in parts])


def gramian_of(parts: Sequence[Any], others: Sequence[Any] | None = None) -> Any:
    """Returns the inner products of the rows, which come in parts, with those of `others`."""
    pairs = zip(parts, parts if others is None else others, strict=True)
    return tf.add_n([_products(part, other) for part, other in pairs])


def _products(first: Any, second: Any) -> Any:
    """Multiplies rows with rows, a few at a time where many are long."""
    num_tasks, size = first.shape
    count = math.ceil(num_tasks / ROWS_AT_ONCE)
    if count == 1 or (size is not None and size < LONG_ROW):
        return tf.matmul(first, second, transpose_b=True)
    bounds = [num_tasks * block // count for block in range(count + 1)]
    rows, columns = (
        [matrix[start:end] for start, end in itertools.pairwise(bounds)]
        for matrix in (first, second)
    )
    blocks = {}
    for i, j in itertools.product(range(count), repeat=2):
        mirrored = second is first and j < i
        blocks[i, j] = (
            tf.transpose(blocks[j, i])
            if mirrored
            else tf.matmul(rows[i], columns[j], transpose_b=True)
        )
    lines = [tf.concat([blocks[i, j] for j in range(count)], axis=1) for i in range(count)]
    return tf.concat(lines, axis=0)


def state_of(balancing: Any) -> list[Any]:
    """Returns the variables in which an update that is dropped must leave no trace."""
    tracked = {id(variable) for variable in getattr(balancing, "tracked_variables", ())}
    return [
        variable
        for variable in balancing.non_trainable_variables
        if variable.dtype.startswith("float") and id(variable) not in tracked
    ]


def balance(
    balancing: Any,
    parts: Sequence[Any],
    products: Any,
    terms: Terms,
    *,
    cross_gramian: Any = None,
    cross_products: Any = None,
    chosen: Any = None,
    features: Sequence[Any] | None = None,
) -> Balanced:
    """Returns the directions, NaN where a gradient is not finite.

    Args:
        balancing: The gradient balancing.
        parts: List of tensors `(num_tasks, size)`, in float32, without loss scale.
        products: What `products_for` returns, over all parts and replicas.
        terms: The `Terms` that were differentiated.
        cross_gramian: Tensor `(num_tasks, num_tasks)`, where the balancing needs it.
        cross_products: Tensor `(num_tasks,)`, where the balancing needs them.
        chosen: Tensor `(num_tasks,)`, where the balancing takes one task a step.
        features: List of tensors, what the gradients were taken by where that is no parameters.
    """
    # A method is finite whatever it gets; an overflow must still be seen by the loss scaling.
    finite = tf.reduce_all(tf.math.is_finite(products))
    gramian = products if balancing.needs_gramian else None
    blocked = tf.where(finite, 0.0, float("nan"))
    active = tf.where(finite, terms.active, 0.0)
    state = state_of(balancing)
    before = [tf.identity(variable.value) for variable in state]
    losses = tf.where(terms.active > 0, terms.losses, 1.0)
    more = balancing.more(
        losses=losses,
        cross_gramian=cross_gramian,
        cross_products=cross_products,
        chosen=chosen,
        features=features,
    )
    directions, heads = balancing.balance(parts, gramian, active, **more)
    # An overflow drops the update, and must leave no trace in the state either.
    by_task = {id(variable) for variable in balancing.task_variables}
    idle = active <= 0
    keep = [idle if id(v) in by_task else tf.logical_not(finite) for v in state]
    update.put_back(state, before, keep)
    return Balanced([direction + blocked for direction in directions], heads)
