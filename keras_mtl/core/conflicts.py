"""How the task gradients stand to one another, measured every so many steps."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mtl.core import replicas
from keras_mtl.core.balanced import gramian_of
from keras_mtl.core.passes import SummedPass
from keras_mtl.core.terms import Terms


class ConflictWatch:
    """Sums what is measured of the task gradients of the shared variables, since `clear`.

    The gradients are those with effective weights, over all replicas. Of each pair it measures the
    cosine and the magnitude similarity 2 |a| |b| / (|a|^2 + |b|^2); of each task its share of the
    step, g_k . d / sum_j |g_j . d| with d the step's gradient of the shared variables.

    Args:
        state: The model's `TrainingState`, which keeps the sums.
        tasks: List of strings.
        every: Integer. Steps from one measurement to the next, from the first one after `clear`.
    """

    def __init__(self, state: Any, tasks: Sequence[str], every: int) -> None:
        self.tasks = list(tasks)
        self.every = every
        size = len(self.tasks)
        self._enabled = state.keep("conflicts_enabled", ())
        self._steps = state.keep("conflicts_steps", ())
        # Cosines, similarities, and how often a pair was measured.
        self._pairs = state.keep("conflicts_pairs", (3, size, size))
        self._shares = state.keep("conflicts_shares", (2, size))
        self._names()

    def enable(self, enabled: bool) -> None:
        """Sets whether anything is measured, without a new trace."""
        self._enabled.assign(float(enabled))

    def clear(self) -> None:
        """Starts anew: the next step is measured."""
        for variable in (self._steps, self._pairs, self._shares):
            variable.assign(np.zeros(variable.shape))

    def observe(self, recording: SummedPass, terms: Terms, gradients: Sequence[Any]) -> None:
        """Measures a step, if it is due; in the graph.

        Args:
            recording: The backward pass, with a persistent tape.
            terms: What it has differentiated.
            gradients: What it has returned.
        """
        counted = tf.equal(tf.math.floormod(self._steps.value, float(self.every)), 0.0)
        due = tf.logical_and(counted, self._enabled.value > 0)
        pairs, shares = replicas.choose(
            due,
            lambda: _measure(recording, terms, gradients),
            lambda: [tf.zeros(self._pairs.shape), tf.zeros(self._shares.shape)],
        )
        self._pairs.assign(self._pairs.value + pairs)
        self._shares.assign(self._shares.value + shares)
        self._steps.assign(self._steps.value + 1.0)

    def results(self) -> dict[str, float]:
        """Returns the means by log name; NaN for what was never measured."""
        cosines, similarities, pairs = np.asarray(self._pairs)
        shares, tasks = np.asarray(self._shares)
        with np.errstate(invalid="ignore"):
            values = cosines / pairs, similarities / pairs, shares / tasks
        cosines, similarities, shares = values
        combinations = list(itertools.combinations(range(len(self.tasks)), 2))
        found = [
            *(cosines[pair] for pair in combinations),
            *(similarities[pair] for pair in combinations),
            *shares,
        ]
        return dict(zip(self._names(), map(float, found), strict=True))

    def _names(self) -> list[str]:
        pairs = ["_".join(pair) for pair in itertools.combinations(self.tasks, 2)]
        names = [
            *(f"{pair}_cosine" for pair in pairs),
            *(f"{pair}_magnitude_similarity" for pair in pairs),
            *(f"{task}_share" for task in self.tasks),
        ]
        if len(set(names)) < len(names):
            raise ValueError(
                f"The tasks {self.tasks} make pairs with the same name in the logs: {names}. "
                "Rename a task, so that no name is made of two others."
            )
        return names


def _measure(recording: SummedPass, terms: Terms, gradients: Sequence[Any]) -> list[Any]:
    shared = recording.partition.shared(recording.variables)
    rows = [
        recording.tape.gradient(total, shared, output_gradients=seed)
        for total, seed in zip(terms.totals, terms.seeds, strict=True)
    ]
    parts = [
        recording.matrix([row[index] for row in rows], variable, terms)
        for index, variable in enumerate(shared)
    ]
    found = dict(zip(map(id, recording.variables), gradients, strict=True))
    step = [recording.row(found[id(variable)], variable, terms) for variable in shared]
    summed = replicas.total([*parts, *step])
    parts, step = summed[: len(shared)], summed[len(shared) :]
    products = tf.add_n(
        [tf.linalg.matvec(part, own) for part, own in zip(parts, step, strict=True)]
    )
    return _relations(gramian_of(parts), products, terms.active)


def _relations(gramian: Any, products: Any, active: Any) -> list[Any]:
    lengths = tf.sqrt(tf.linalg.diag_part(gramian))
    finite = tf.math.is_finite(lengths) & tf.math.is_finite(products)
    seen = tf.cast((active > 0) & finite & (lengths > 0), tf.float32)
    lengths = tf.where(seen > 0, lengths, 1.0)
    products = tf.where(seen > 0, products, 0.0)
    pairs = seen[:, None] * seen[None, :]
    ratio = lengths[:, None] / lengths[None, :]
    cosines = tf.where(pairs > 0, gramian / lengths[:, None] / lengths[None, :], 0.0)
    similarities = 2 / (ratio + 1 / ratio) * pairs
    shares = tf.math.divide_no_nan(products, tf.reduce_sum(tf.abs(products)))
    return [tf.stack([cosines, similarities, pairs]), tf.stack([shares, seen])]
