"""One backward pass of the losses times weights that are found without the task gradients."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_mtl.core import replicas, update
from keras_mtl.core.balanced import balance, state_of
from keras_mtl.core.passes import Collected, SummedPass, given, head_factors
from keras_mtl.core.terms import Terms


class WeightedPass(SummedPass):
    """A weighted sum of the task gradients as the gradient of the weighted sum of the losses.

    For balancings whose weights come from no gradient.
    """

    # The heads are asked for each by itself.
    persistent = True

    def gradients(self, terms: Terms) -> list[Any]:
        return self._with_found_weights(terms, tf.zeros_like(terms.factors))

    def _with_found_weights(self, terms: Terms, products: Any, **evidence: Any) -> list[Any]:
        state = state_of(self.balancing)
        before = [tf.identity(variable.value) for variable in state]
        # Rows that are those of the unit matrix combine to the weights themselves.
        unit = tf.eye(len(terms.totals))
        balanced = balance(self.balancing, [unit], products, terms, **evidence)
        gradients = with_weights(self, terms, balanced.directions[0], balanced.heads)
        if state:
            # An overflow that shows only in the sum drops the update, as one that shows before.
            overflow = tf.logical_not(self._finite(gradients))
            update.put_back(state, before, [overflow] * len(state))
        return gradients

    def _finite(self, gradients: Sequence[Any]) -> Any:
        """Returns whether the gradients of what is shared are finite on all replicas."""
        by_variable = dict(zip(map(id, self.variables), gradients, strict=True))
        shared = [by_variable[id(variable)] for variable in self.partition.shared(self.variables)]
        sums = [tf.reduce_sum(tf.convert_to_tensor(part)) for part in shared if part is not None]
        return tf.math.is_finite(replicas.total([tf.add_n(sums)])[0])


class ProductsPass(WeightedPass):
    """Products of one half's gradients with a combination of the other's, then a weighted pass.

    The combination is a gradient of its own, and of the gradients of the first half, less their
    mean, each is needed for its product only: no more than two are held at a time.
    """

    def gradients(self, terms: Terms) -> list[Any]:
        shared = self.partition.shared(self.variables)
        first, second = terms.halves
        probe = tf.cast(self.balancing.probe(terms.active), tf.float32)
        seeds = terms.seeds_of(second.factors * tf.where(terms.active > 0, probe, 0.0))
        found = self.tape.gradient(second.totals, shared, output_gradients=seeds)
        combined = replicas.total(self._rows(found, shared, terms))
        products = replicas.total([self._products(first, combined, shared, terms)])[0]
        return self._with_found_weights(terms, products, cross_products=products)

    def _products(
        self, half: Any, combined: Sequence[Any], shared: Sequence[Any], terms: Terms
    ) -> Any:
        """Returns this replica's part of each task's product, less their mean.

        The last one makes their sum 0, which saves its pass.
        """
        num_tasks = len(half.totals)
        mean = tf.math.divide_no_nan(terms.active, tf.reduce_sum(terms.active))
        products: list[Any] = []
        for index in range(num_tasks - 1):
            factors = half.factors * terms.active[index] * (tf.one_hot(index, num_tasks) - mean)
            with tf.control_dependencies(products[-1:] or combined):
                seeds = terms.seeds_of(tf.identity(factors))
            found = self.tape.gradient(half.totals, shared, output_gradients=seeds)
            pairs = zip(self._rows(found, shared, terms), combined, strict=True)
            products.append(tf.add_n([tf.tensordot(row, other, axes=1) for row, other in pairs]))
        return tf.stack([*products, -tf.add_n([tf.zeros(()), *products])])

    def _rows(self, gradients: Sequence[Any], shared: Sequence[Any], terms: Terms) -> list[Any]:
        return [
            self.row(gradient, variable, terms)
            for gradient, variable in zip(gradients, shared, strict=True)
        ]


def with_weights(passed: SummedPass, terms: Terms, weights: Any, heads: Any) -> list[Any]:
    """Returns the gradients of the losses times given weights in what tasks share.

    Args:
        passed: The backward pass, with a persistent tape.
        terms: What it differentiates.
        weights: Tensor `(num_tasks,)`, of the shared gradients.
        heads: Tensor `(num_tasks,)`, of the private ones, or `None` for 1 each.
    """
    shared = passed.partition.shared(passed.variables)
    collected = Collected(passed.variables)
    collected.add(shared, _shared_gradients(passed, terms, weights))
    factors = head_factors(heads, terms)
    for total, seed, private, factor in zip(
        terms.totals, terms.seeds, passed.private(), factors, strict=True
    ):
        found = passed.tape.gradient(total, private, output_gradients=seed)
        collected.add(private, found, factor)
    # Layers called once a task below the features take the plain sum, as in a step that balances.
    corrections = [
        (1.0 if factor is None else factor) - weight
        for factor, weight in zip(factors, tf.unstack(weights), strict=True)
    ]
    passed.add_read_alone(collected, terms, corrections)
    for extra in given(terms.extra):
        found = passed.tape.gradient(extra, passed.variables, output_gradients=terms.scale)
        collected.add(passed.variables, found)
    return collected.gradients


def _shared_gradients(passed: SummedPass, terms: Terms, weights: Any) -> list[Any]:
    shared = passed.partition.shared(passed.variables)
    seeds = terms.seeds_of(terms.factors * weights)
    if not passed.detachable:
        return passed.tape.gradient(terms.totals, shared, output_gradients=seeds)
    # What a detached task has in a common pass cannot be left out of it: it may be NaN.
    found = Collected(shared)
    for total, seed, active in zip(terms.totals, seeds, tf.unstack(terms.active), strict=True):
        parts = passed.tape.gradient(total, shared, output_gradients=seed)
        found.add(shared, passed.attached(parts, active))
    return found.gradients
