"""One backward pass a task, from which both halves of a batch have their gradients."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_mtl.core.balanced import Balanced, gramian_of
from keras_mtl.core.dense_calls import are_cheaper, is_dense_and_large, products
from keras_mtl.core.labels import middle
from keras_mtl.core.noted_calls import NotedCall, Noting, in_order
from keras_mtl.core.parameters_pass import HalvesPass
from keras_mtl.core.task_rows import TaskRows
from keras_mtl.core.terms import Terms


class SplitPass(Noting, HalvesPass):
    """One backward pass a task, of which each layer gives the gradients of both halves.

    It does what `HalvesPass` does where the shared variables are those of `layers`, and what is
    shared keeps the rows of a batch apart. There a gradient is a sum over rows, and its two parts
    follow from what a layer read and the derivatives by what it gave. Of large dense layers they
    are not even formed where nothing but products and a weighted sum is asked for. Where a head
    mixes the rows of a batch, as in a batch normalization, the rows are those of the shared layers.
    """

    def gradients(self, terms: Terms) -> list[Any]:
        calls = self.calls
        if not calls:
            return super().gradients(terms)
        shared = self.partition.shared(self.variables)
        held = [call for call in calls if self._is_held(call)]
        formed = [call for call in calls if not self._is_held(call)]
        apart = {id(variable) for call in held for variable in call.variables}
        others = [variable for variable in shared if id(variable) not in apart]
        ends = middle(tf.shape(calls[0].read)[0])
        halves = slice(None, ends), slice(ends, None)
        (first, second), backs, own = self._split(formed, held, others, halves, terms)
        cross = [gramian_of(first, second)] if others else []
        for call, back in zip(held, backs, strict=True):
            with tf.control_dependencies(cross[-1:]):
                cross.append(_cross_products(call, tf.identity(back), halves))
        parts = [one + other for one, other in zip(first, second, strict=True)]
        balanced = self._balanced([*parts, *backs], tf.add_n(cross), terms)
        directions = in_order(shared, others, held, balanced.directions)
        return self._collect(shared, Balanced(directions, balanced.heads), own, terms)

    def _is_held(self, call: NotedCall) -> bool:
        """Whether the derivatives by what was given stand for the gradients."""
        blind = self.balancing.reads_gramian_only and not self.balancing.needs_gramian
        return blind and is_dense_and_large(call.layer)

    def _split(
        self,
        formed: Sequence[NotedCall],
        held: Sequence[NotedCall],
        others: Sequence[Any],
        halves: Sequence[slice],
        terms: Terms,
    ) -> tuple[list[list[Any]], list[Any], list[list[Any]]]:
        """Returns gradients of both halves, derivatives of the whole, and private gradients.

        The first are `(num_tasks, size)` for each of `others`, the variables of the calls
        `formed`; the second `(num_tasks, size)` for each of the calls `held`.
        """
        size = sum(variable.shape.num_elements() for variable in others)
        rows = [TaskRows(len(terms.totals), size, compiled=self.compiled) for _ in halves]
        given = [call.given for call in [*formed, *held]]
        backs, own = [], []
        parts = zip(terms.totals, terms.seeds, self.private(), strict=True)
        for index, (total, seed, private) in enumerate(parts):
            with rows[0].after_the_last(), rows[1].after_the_last():
                start = tf.identity(seed)
            found = self.tape.gradient(total, [*given, *private], output_gradients=start)
            for half, of_half in zip(halves, rows, strict=True):
                gradients = _of_rows(formed, found, half)
                of_half.add([self.row_of(index, gradients.get(id(v)), v, terms) for v in others])
            backs.append(found[len(formed) : len(given)])
            own.append(found[len(given) :])
        columns = [
            self.matrix([task[place] for task in backs], call.given, terms)
            for place, call in enumerate(held)
        ]
        return [of_half.matrices() for of_half in rows], columns, own


def _of_rows(calls: Sequence[NotedCall], backs: Sequence[Any], rows: slice) -> dict[int, Any]:
    """Returns by `id` the gradients of the variables of some calls, on some rows of the batch."""
    found: dict[int, Any] = {}
    for call, back in zip(calls, backs, strict=False):
        if back is not None:
            gradients = call.gradients(back, rows)
            found |= dict(zip(map(id, call.variables), gradients, strict=True))
    return found


def _cross_products(call: NotedCall, matrix: Any, halves: Sequence[slice]) -> Any:
    """Returns the inner products of the gradients of one half with those of the other.

    Args:
        call: That of a dense layer.
        matrix: Tensor `(num_tasks, size)`, the derivatives by what was given.
        halves: Two slices of the batch.
    """
    shape = tf.concat([tf.shape(matrix)[:1], tf.shape(call.given)], axis=0)
    backs = tf.ensure_shape(tf.reshape(matrix, shape), (matrix.shape[0], *call.given.shape))

    def from_call() -> Any:
        return products(call, *((call.read[half], backs[:, half]) for half in halves))

    def from_gradients() -> Any:
        tasks = tf.unstack(backs)
        first, second = (
            [tf.stack(rows) for rows in zip(*(call.gradients(x, half) for x in tasks), strict=True)]
            for half in halves
        )
        flat = [[tf.reshape(x, (x.shape[0], -1)) for x in half] for half in (first, second)]
        return gramian_of(*flat)

    cheaper = are_cheaper([call], matrix.shape[0], len(halves))
    known = tf.get_static_value(cheaper)
    if known is not None:
        return from_call() if known else from_gradients()
    return tf.cond(cheaper, from_call, from_gradients)


def splitting(layers: Sequence[Any]) -> type[HalvesPass]:
    """Returns the backward pass for the layers of all shared variables, or for none."""
    return SplitPass.of(layers) if layers else HalvesPass
