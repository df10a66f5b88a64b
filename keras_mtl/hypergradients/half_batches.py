"""The two halves of a batch: one to learn from, one to tell what came of it."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_mtl.core import replicas, update
from keras_mtl.core.losses import LossSum
from keras_mtl.core.measured import Measured, measure
from keras_mtl.core.step import Step

# The perturbation's length over all variables, as in DARTS (Liu, Simonyan, Yang 2019).
PERTURBATION = 0.01


class HalfBatches:
    """The two halves of a batch, run through the model without a trace.

    Args:
        step: The training `Step`.
        data: This replica's part of a batch.
    """

    def __init__(self, step: Step, data: Any) -> None:
        self.step = step
        self._variables = step.model_variables
        self._start = [tf.identity(variable.value) for variable in self._variables]
        self._halves = _halves(data)
        self._effects = step.effects.read()

    def losses(self, half: int) -> tuple[list[LossSum], Any, Measured]:
        """Returns local sums, the replica's extra terms and global losses of half 0 or 1."""
        # The same dropout masks in every pass: what differs is the variables.
        self.step.effects.rewind_random_states(self._effects)
        rows, refuses = self._halves[half], self.step.refuses_negative
        _, sums, extra = self.step.forward(*rows, training=True)
        return sums, extra, measure(sums, extra, rows[0], refuses_negative=refuses)

    def gradient(
        self, half: int, weigh: Callable[[Measured], Any], *, regularized: bool = False
    ) -> tuple[list[Any], Measured]:
        """Returns the global gradient of the weighted losses of a half, and what was measured.

        Args:
            half: Integer, 0 or 1.
            weigh: Function from what was measured to the weight of each task, `(num_tasks,)`.
            regularized: Boolean. Whether regularizers and other extra terms are added.
        """
        with tf.GradientTape() as tape:
            sums, extra, measured = self.losses(half)
        factors = tf.math.divide_no_nan(weigh(measured), measured.denominators)
        targets, factors = [part.total for part in sums], tf.unstack(factors)
        if regularized and extra is not None:
            targets, factors = [*targets, extra], [*factors, measured.share]
        return self._summed(tape, targets, factors), measured

    def _summed(self, tape: Any, targets: Sequence[Any], factors: Sequence[Any]) -> list[Any]:
        """Returns the gradient of sum_k factor_k target_k over all replicas, dense, in float32."""
        # Scaled as in the step, since small gradients vanish in float16.
        scale = update.loss_scale(self.step.model.optimizer)
        factors = [factor * scale for factor in factors]
        found = tape.gradient(targets, self._variables, output_gradients=factors)
        dense = [
            tf.zeros(variable.shape)
            if gradient is None
            else tf.cast(tf.convert_to_tensor(gradient), tf.float32) / scale
            for variable, gradient in zip(self._variables, found, strict=True)
        ]
        return replicas.total(dense)

    def shift(self, by: Sequence[Any], factor: Any) -> None:
        """Sets the model's variables to their values at the start + `factor` * `by`."""
        moved = [
            value + tf.cast(factor * part, value.dtype)
            for value, part in zip(self._start, by, strict=True)
        ]
        replicas.assign(self._variables, moved)

    def derivative(self, measure: Callable[[], Sequence[Any]], direction: Sequence[Any]) -> Any:
        """Returns the derivative of what `measure` returns along a direction from the start.

        By central differences: derivatives of gradients are wrong where a layer takes its moments
        from `tf.nn.moments` (normalization), and missing where it is fused (recurrent, on a GPU).
        """
        norm = tf.linalg.global_norm(direction)
        epsilon = tf.math.divide_no_nan(PERTURBATION, norm)
        found = []
        for sign in (1.0, -1.0):
            self.shift(direction, sign * epsilon)
            found.append(measure())
        # Not divided by epsilon, which is 0 for a direction too long to be measured.
        return [
            (ahead - behind) * norm / (2 * PERTURBATION)
            for ahead, behind in zip(*found, strict=True)
        ]

    def main(self, measured: Measured) -> Any:
        """Returns 1.0 for the main tasks that take part, `(num_tasks,)`."""
        roles = self.step.weighting.roles
        main = tf.constant([0.0 if role.auxiliary else 1.0 for role in roles])
        return main * self.step.active(measured)

    def tell(self, derivative: Any, first: Measured, second: Measured) -> None:
        """Leaves the model as it was and hands a derivative to the loss weighting.

        Args:
            derivative: Tensor `(num_tasks,)`, that of the main tasks' losses on half 1 with
                respect to the weight of each loss on half 0, the user's constant included.
            first: What was measured on half 0.
            second: What was measured on half 1.
        """
        replicas.assign(self._variables, self._start)
        self.step.effects.restore(self._effects)
        active = self.step.active(first) * tf.reduce_max(self.main(second))
        self.step.tell_hypergradient(self.step.state.constants.value * derivative, active)


def _halves(data: Any) -> list[Any]:
    # Every other row of the global batch, so that replicas split it as one device does.
    before = replicas.sum_before(tf.shape(_first(data))[0])
    return [_every_other_row(data, (before + half) % 2) for half in (0, 1)]


def _first(data: Any) -> Any:
    return next(part for part in tf.nest.flatten(data) if part is not None)


def _every_other_row(data: Any, start: Any) -> Any:
    def rows(part: Any) -> Any:
        if isinstance(part, tf.SparseTensor):
            return _sparse_rows(part, start)
        return None if part is None else part[start::2]

    return tf.nest.map_structure(rows, data)


def _sparse_rows(part: tf.SparseTensor, start: Any) -> tf.SparseTensor:
    """Returns `part[start::2]`, with `start` 0 or 1, which TensorFlow has not for sparse ones."""
    start = tf.cast(start, tf.int64)
    kept = tf.sparse.retain(part, part.indices[:, 0] % 2 == start)
    indices = tf.concat([kept.indices[:, :1] // 2, kept.indices[:, 1:]], axis=1)
    count = (part.dense_shape[:1] - start + 1) // 2
    rows = tf.SparseTensor(indices, kept.values, tf.concat([count, part.dense_shape[1:]], axis=0))
    rows.set_shape(tf.TensorShape([None]).concatenate(part.shape[1:]))
    return rows
