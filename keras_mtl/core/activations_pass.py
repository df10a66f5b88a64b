"""One backward pass a task that forms no gradient of large dense layers, only their sum."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_mtl.core.balanced import Balanced, balance, gramian_of
from keras_mtl.core.dense_calls import are_cheaper, gramian
from keras_mtl.core.noted_calls import NotedCall, Noting, in_order
from keras_mtl.core.parameters_pass import ParametersPass
from keras_mtl.core.passes import either
from keras_mtl.core.terms import Terms


class ActivationsPass(Noting, ParametersPass):
    """A pass of each task to the outputs of large dense layers, then one to their variables.

    For balancings that read nothing but the Gramian. It does what `ParametersPass` does, and takes
    the part of `layers` in the Gramian and in the weighted sum of the gradients from what they
    read and the derivatives by what they give, where a batch has few enough rows for that.
    """

    def gradients(self, terms: Terms) -> list[Any]:
        calls = self.calls
        if not calls:
            return super().gradients(terms)
        cheaper = are_cheaper(calls, len(terms.totals))
        known = tf.get_static_value(cheaper)
        if known is not None:
            return self._by_calls(calls, terms) if known else super().gradients(terms)
        rows = super().gradients
        return either(
            self, terms, cheaper, lambda: self._by_calls(calls, terms), lambda: rows(terms)
        )

    def _by_calls(self, calls: Sequence[NotedCall], terms: Terms) -> list[Any]:
        shared = self.partition.shared(self.variables)
        noted = {id(variable) for call in calls for variable in call.variables}
        others = [variable for variable in shared if id(variable) not in noted]
        matrices, backs, own = self._task_parts(others, calls, terms)
        gramians = [gramian_of(matrices)] if others else []
        gramians += [gramian(call, back) for call, back in zip(calls, backs, strict=True)]
        balanced = balance(self.balancing, [*matrices, *backs], tf.add_n(gramians), terms)
        directions = in_order(shared, others, calls, balanced.directions)
        return self._collect(shared, Balanced(directions, balanced.heads), own, terms)

    def _task_parts(
        self, others: Sequence[Any], calls: Sequence[NotedCall], terms: Terms
    ) -> tuple[list[Any], list[Any], list[list[Any]]]:
        """Returns gradients of `others`, derivatives at the calls, and private gradients.

        The first two are matrices `(num_tasks, size)`, for each variable and for each call.
        """
        given = [call.given for call in calls]
        sources = [[*given, *private] for private in self.private()]
        matrices, found = self._task_gradients(others, sources, terms.totals, terms)
        backs = [
            self.matrix([parts[place] for parts in found], call.given, terms)
            for place, call in enumerate(calls)
        ]
        return matrices, backs, [parts[len(given) :] for parts in found]


def noting(layers: Sequence[Any]) -> type[ParametersPass]:
    """Returns the backward pass for some dense layers, or for none."""
    return ActivationsPass.of(layers) if layers else ParametersPass
