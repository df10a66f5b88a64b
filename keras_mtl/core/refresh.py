"""Reuses task weights between the steps in which they are found."""

from typing import Any

import tensorflow as tf

from keras_mtl.core.passes import SummedPass, either
from keras_mtl.core.terms import Terms
from keras_mtl.core.weighted_pass import with_weights


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
    balancing = passed.balancing
    weights = tf.where(terms.active > 0, tf.convert_to_tensor(balancing.last_weights.value), 0.0)
    heads = weights if balancing.weights_heads else None
    gradients = with_weights(passed, terms, weights, heads)
    balancing.count_step()
    return gradients
