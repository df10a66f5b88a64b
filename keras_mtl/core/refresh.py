"""Reuses task weights between the steps in which they are found."""

from typing import Any

import tensorflow as tf

from keras_mtl.core.passes import Collected, SummedPass, either, given, head_factors
from keras_mtl.core.terms import Terms


def refreshing(kind: type[SummedPass]) -> type[SummedPass]:
    """Returns a backward pass that balances as `kind` does, every `refresh_every` steps."""

    class Refreshing(kind):
        """In between, one backward pass over the losses times the last weights."""

        # Both passes may be asked of one tape: the graph holds both, and a step runs one.
        persistent = True

        def gradients(self, terms: Terms) -> list[Any]:
            due = tf.equal(self.balancing.steps_since_refresh.value, 0.0)
            balance = super().gradients
            return either(
                self, terms, due, lambda: balance(terms), lambda: _with_last_weights(self, terms)
            )

    return Refreshing


def _with_last_weights(passed: SummedPass, terms: Terms) -> list[Any]:
    balancing, partition = passed.balancing, passed.partition
    weights = tf.where(terms.active > 0, tf.convert_to_tensor(balancing.last_weights.value), 0.0)
    shared = partition.shared(passed.variables)
    collected = Collected(passed.variables)
    seeds = terms.seeds_of(terms.factors * weights)
    collected.add(shared, passed.tape.gradient(terms.totals, shared, output_gradients=seeds))
    heads = head_factors(weights if balancing.weights_heads else None, terms)
    for total, seed, private, head in zip(
        terms.totals, terms.seeds, passed.private(), heads, strict=True
    ):
        collected.add(private, passed.tape.gradient(total, private, output_gradients=seed), head)
    # Layers called once a task below the features take the plain sum, as in a step that balances.
    corrections = [
        (1.0 if head is None else head) - weight
        for head, weight in zip(heads, tf.unstack(weights), strict=True)
    ]
    passed.add_read_alone(collected, terms, corrections)
    for extra in given(terms.extra):
        found = passed.tape.gradient(extra, passed.variables, output_gradients=terms.scale)
        collected.add(passed.variables, found)
    balancing.count_step()
    return collected.gradients
