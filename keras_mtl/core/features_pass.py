"""One backward pass a task down to where the shared part ends, and one through the trunk."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import tensorflow as tf

from keras_mtl.core import replicas
from keras_mtl.core.balanced import Balanced, balance, products_for
from keras_mtl.core.partition import Partition, Taps
from keras_mtl.core.passes import Collected, SummedPass, given, head_factors, without
from keras_mtl.core.terms import Terms


class FeaturesPass(SummedPass):
    """One backward pass a task down to the cut, balanced there, and one through the trunk."""

    def __init__(
        self,
        variables: Sequence[Any],
        partition: Partition,
        balancing: Any,
        **kwargs: Any,
    ) -> None:
        # Branches inside a nested trunk are private, but lie above the cut: they take passes of
        # the outer tape.
        self._above = [partition.private_above_cuts(variables, task) for task in partition.tasks]
        self.persistent = self.persistent or any(self._above)
        super().__init__(variables, partition, balancing, **kwargs)
        self.taps = Taps(partition)

    def __enter__(self) -> "FeaturesPass":
        self.tape.__enter__()
        self.taps.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.taps.__exit__(*error)
        self.tape.__exit__(*error)

    def gradients(self, terms: Terms) -> list[Any]:
        taps = self.taps.taps
        reused = self.partition.shared_read_alone(self.variables)
        found = []
        for total, seed, private in zip(
            terms.totals, terms.seeds, self._private_below(), strict=True
        ):
            sources = [*taps, *(variable.value for variable in [*reused, *private])]
            found.append(self.taps.tape.gradient(total, sources, output_gradients=seed))
        balanced = self._balance([part[: len(taps)] for part in found], terms)
        collected = Collected(self.variables)
        self._add_below(collected, [part[len(taps) :] for part in found], balanced, terms)
        self._add_private_above(collected, balanced, terms)
        self._add_trunk(collected, balanced, terms)
        return collected.gradients

    def _add_below(
        self, collected: Collected, found: Sequence[Any], balanced: Balanced, terms: Terms
    ) -> None:
        reused = self.partition.shared_read_alone(self.variables)
        heads = head_factors(balanced.heads, terms)
        for index, (private, part) in enumerate(zip(self._private_below(), found, strict=True)):
            attached = self.attached(part[: len(reused)], terms.active[index])
            collected.add(reused, attached, heads[index])
            collected.add(private, part[len(reused) :], heads[index])

    def add_read_alone(self, collected: Collected, terms: Terms, factors: Sequence[Any]) -> None:
        reused = self.partition.shared_read_alone(self.variables)
        parts = zip(terms.totals, terms.seeds, tf.unstack(terms.active), factors, strict=True)
        for total, seed, active, factor in parts if reused else ():
            sources = [variable.value for variable in reused]
            found = self.taps.tape.gradient(total, sources, output_gradients=seed)
            collected.add(reused, self.attached(found, active), factor)

    def _private_below(self) -> list[list[Any]]:
        return [
            without(private, above)
            for private, above in zip(self.private(), self._above, strict=True)
        ]

    def _add_private_above(self, collected: Collected, balanced: Balanced, terms: Terms) -> None:
        heads = head_factors(balanced.heads, terms)
        for total, seed, above, head in zip(
            terms.totals, terms.seeds, self._above, heads, strict=True
        ):
            if not above:
                continue
            found = self.tape.gradient(total, above, output_gradients=seed)
            collected.add(above, found, head)
            if terms.extra is not None:
                more = self.tape.gradient(terms.extra, above, output_gradients=terms.scale)
                collected.add(above, more)

    def _add_trunk(self, collected: Collected, balanced: Balanced, terms: Terms) -> None:
        seeds = [
            tf.cast(tf.reshape(direction * terms.scale, tf.shape(tap)), tap.dtype)
            for direction, tap in zip(balanced.directions, self.taps.taps, strict=True)
        ]
        targets = [*self.taps.cuts, *given(terms.extra)]
        seeds += [terms.scale] if terms.extra is not None else []
        trunk = without(self.variables, list(chain.from_iterable(self._above)))
        collected.add(trunk, self.tape.gradient(targets, trunk, output_gradients=seeds))

    def _balance(self, rows: Sequence[Sequence[Any]], terms: Terms) -> Balanced:
        parts = [
            self.matrix([row[index] for row in rows], tap, terms)
            for index, tap in enumerate(self.taps.taps)
        ]
        # Each replica holds the features of its own examples: here the Gramians do add up.
        products = replicas.total([products_for(self.balancing, parts)])[0]
        return balance(self.balancing, parts, products, terms, features=self.taps.taps)
