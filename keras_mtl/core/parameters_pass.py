"""One backward pass a task, balanced on the gradients of the shared variables."""

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_mtl.core import replicas
from keras_mtl.core.balanced import Balanced, balance, gramian_of, products_for
from keras_mtl.core.passes import Collected, SummedPass, head_factors
from keras_mtl.core.task_rows import TaskRows
from keras_mtl.core.terms import Terms


class ParametersPass(SummedPass):
    """One backward pass a task; the gradients of the shared variables are balanced."""

    persistent = True

    def gradients(self, terms: Terms) -> list[Any]:
        shared = self.partition.shared(self.variables)
        matrices, own = self._task_gradients(shared, self.private(), terms.totals, terms)
        # The gradients are summed over replicas, not their Gramians: these do not add up.
        parts = replicas.total(matrices)
        balanced = balance(self.balancing, parts, products_for(self.balancing, parts), terms)
        return self._collect(shared, balanced, own, terms)

    def _task_gradients(
        self,
        shared: Sequence[Any],
        own_sources: Sequence[Sequence[Any]],
        totals: Sequence[Any],
        terms: Terms,
    ) -> tuple[list[Any], list[list[Any]]]:
        """Returns the gradients of the shared variables and, for each task, of its own sources.

        The first are `(num_tasks, size)` for each variable, on this replica.
        """
        size = sum(math.prod(variable.shape) for variable in shared)
        rows = TaskRows(len(totals), size, compiled=self.compiled)
        own = []
        parts = zip(totals, terms.seeds, own_sources, strict=True)
        for index, (total, seed, sources) in enumerate(parts):
            with rows.after_the_last():
                start = tf.identity(seed)
            found = self.tape.gradient(total, [*shared, *sources], output_gradients=start)
            rows.add(
                [
                    self.row_of(index, gradient, variable, terms)
                    for gradient, variable in zip(found, shared, strict=False)
                ]
            )
            own.append(found[len(shared) :])
        return rows.matrices(), own

    def _collect(
        self,
        shared: Sequence[Any],
        balanced: Balanced,
        own: Sequence[Sequence[Any]],
        terms: Terms,
    ) -> list[Any]:
        collected = Collected(self.variables)
        heads = head_factors(balanced.heads, terms)
        for private, found, head in zip(self.private(), own, heads, strict=True):
            collected.add(private, found, head)
        # Every replica has the whole direction, and the optimizer will add them up.
        factor = terms.scale / replicas.count()
        directions = [
            tf.cast(tf.reshape(direction * factor, variable.shape), variable.dtype)
            for direction, variable in zip(balanced.directions, shared, strict=True)
        ]
        collected.add(shared, directions)
        if terms.extra is not None:
            found = self.tape.gradient(terms.extra, self.variables, output_gradients=terms.scale)
            collected.add(self.variables, found)
        return collected.gradients


class HalvesPass(ParametersPass):
    """Two backward passes a task, one for each half of the batch.

    Their sum is the gradient of the batch; the inner products of one half's gradients with the
    other's are what two independent batches give.
    """

    def gradients(self, terms: Terms) -> list[Any]:
        shared = self.partition.shared(self.variables)
        private = self.private()
        found = [self._task_gradients(shared, private, half.totals, terms) for half in terms.halves]
        sums = replicas.total([*found[0][0], *found[1][0]])
        first, second = sums[: len(shared)], sums[len(shared) :]
        parts = [one + other for one, other in zip(first, second, strict=True)]
        balanced = self._balanced(parts, gramian_of(first, second), terms)
        return self._collect(shared, balanced, self._own(found), terms)

    def _balanced(self, parts: Sequence[Any], cross: Any, terms: Terms) -> Balanced:
        """Balances gradients of the batch.

        Args:
            parts: List of tensors `(num_tasks, size)`.
            cross: Tensor `(num_tasks, num_tasks)`, inner products of what both halves add to them.
            terms: What was differentiated.
        """
        # Each is a part of a sum over the batch; a mean over half of it has other factors.
        ratios = [tf.math.divide_no_nan(half.factors, terms.factors) for half in terms.halves]
        cross = cross * ratios[0][:, None] * ratios[1][None, :]
        found = products_for(self.balancing, parts)
        if not self.balancing.needs_gramian:
            # They show what is not finite, which here may be the products alone.
            found += tf.reduce_sum(cross, axis=1)
        evidence = self.balancing.of_halves(cross, terms.active)
        return balance(self.balancing, parts, found, terms, **evidence)

    def _own(self, found: Sequence[Any]) -> list[list[Any]]:
        """Returns each task's private gradients of the whole batch."""
        both = []
        for index, private in enumerate(self.private()):
            collected = Collected(private)
            for _, own in found:
                collected.add(private, own[index])
            both.append(collected.gradients)
        return both


class OneTaskPass(ParametersPass):
    """The backward pass of the one task that the balancing has chosen for this step."""

    def gradients(self, terms: Terms) -> list[Any]:
        shared, every = self.partition.shared(self.variables), self.private()
        chosen = self.balancing.choose(terms.active)
        branches = [
            lambda index=index: self._gradients_of(index, shared, every, terms)
            for index in range(len(every))
        ]
        found = tf.switch_case(tf.argmax(chosen, output_type=tf.int32), branches)
        # Where no task is active, it is not the first one's turn.
        one = tf.reduce_any(chosen > 0)
        rows = [tf.where(one, part, 0.0)[None] for part in found[: len(shared)]]
        rows = replicas.total(rows)
        products = products_for(self.balancing, rows)
        balanced = balance(self.balancing, rows, products, terms, chosen=chosen)
        flat = iter(found[len(shared) :])
        own = [[next(flat) for _ in private] for private in every]
        return self._collect(shared, balanced, own, terms)

    def _gradients_of(
        self, index: int, shared: Sequence[Any], every: Sequence[Sequence[Any]], terms: Terms
    ) -> list[Any]:
        """Returns the rows of one task, then the private gradients of all, 0 but its own."""
        seed = terms.factors[index] * terms.scale
        sources = [*shared, *every[index]]
        found = self.tape.gradient(terms.totals[index], sources, output_gradients=seed)
        rows = [
            self.row(gradient, variable, terms)
            for gradient, variable in zip(found, shared, strict=False)
        ]
        own = dict(zip(map(id, every[index]), found[len(shared) :], strict=True))
        return rows + [
            _dense(own.get(id(variable)), variable) for private in every for variable in private
        ]


def _dense(gradient: Any, variable: Any) -> Any:
    return tf.zeros_like(variable.value) if gradient is None else tf.convert_to_tensor(gradient)
