"""How the main tasks' losses depend on the task weights, through the update they make.

For loss weightings that learn from it: `LossWeighting.hypergradient` names the way.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_mtl.core import replicas, update
from keras_mtl.core.losses import LossSum
from keras_mtl.core.step import Measured, Step

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
        self.variables = step.model_variables
        self._halves = _halves(data)
        self._effects = step.effects.read()

    def losses(self, half: int) -> tuple[list[LossSum], Measured]:
        """Returns the local sums and the global losses of half 0 or 1, with the model as it is."""
        # The same dropout masks in every pass: what differs is the variables.
        self.step.effects.rewind_random_states(self._effects)
        _, sums, extra = self.step.forward(*self._halves[half], training=True)
        return sums, self.step.measure(sums, extra)

    def gradient(self, half: int, weigh: Callable[[Measured], Any]) -> tuple[list[Any], Measured]:
        """Returns the global gradient of the weighted losses of a half, and what was measured.

        Args:
            half: Integer, 0 or 1.
            weigh: Function from what was measured to the weight of each task, `(num_tasks,)`.
        """
        with tf.GradientTape() as tape:
            sums, measured = self.losses(half)
        factors = tf.math.divide_no_nan(weigh(measured), measured.denominators)
        return self.summed(tape, [part.total for part in sums], factors), measured

    def summed(self, tape: Any, targets: Sequence[Any], factors: Any) -> list[Any]:
        """Returns the gradient of sum_k factor_k target_k over all replicas, dense, in float32."""
        # Scaled as in the step, since small gradients vanish in float16.
        scale = update.loss_scale(self.step.model.optimizer)
        found = tape.gradient(targets, self.variables, output_gradients=tf.unstack(factors * scale))
        dense = [
            tf.zeros(variable.shape)
            if gradient is None
            else tf.cast(tf.convert_to_tensor(gradient), tf.float32) / scale
            for variable, gradient in zip(self.variables, found, strict=True)
        ]
        return replicas.total(dense)

    def restore(self) -> None:
        """Leaves the model's random states and statistics as they were."""
        self.step.effects.restore(self._effects)


def _halves(data: Any) -> list[Any]:
    # Every other row of the global batch, so that replicas split it as one device does.
    flat = [part for part in tf.nest.flatten(data) if part is not None]
    before = replicas.sum_before(tf.shape(flat[0])[0])
    return [_rows(data, slice((before + half) % 2, None, 2)) for half in (0, 1)]


def _rows(data: Any, rows: slice) -> Any:
    return tf.nest.map_structure(lambda part: None if part is None else part[rows], data)


class OneStepHypergradient:
    """Looks one virtual step ahead, with the change of the gradient by finite differences.

    With theta' = theta - eta grad sum_k w_k L_k(A), the derivative of the main tasks' losses on B
    at theta' is -eta grad L_k(A) . v, with v their gradient at theta'; the product is measured as
    (L_k(A; theta + eps v) - L_k(A; theta - eps v)) / (2 eps).

    Args:
        step: The training `Step`.
    """

    def __init__(self, step: Step) -> None:
        self.step = step

    def __call__(self, data: Any) -> None:
        """Tells the loss weighting its hypergradient on a batch."""
        step, batches = self.step, HalfBatches(self.step, data)
        variables = batches.variables
        before = [tf.identity(variable.value) for variable in variables]
        rate = tf.cast(step.model.optimizer.learning_rate, tf.float32)
        gradient, first = batches.gradient(0, step.effective_weights)
        _shift(variables, before, gradient, -rate)
        slope, second = batches.gradient(1, self._main)
        epsilon = tf.math.divide_no_nan(PERTURBATION, tf.linalg.global_norm(slope))
        losses = []
        for sign in (1.0, -1.0):
            _shift(variables, before, slope, sign * epsilon)
            losses.append(batches.losses(0)[1].losses)
        replicas.assign(variables, before)
        batches.restore()
        products = tf.math.divide_no_nan(losses[0] - losses[1], 2.0 * epsilon)
        hypergradient = -rate * step.state.constants.value * products
        active = step.active(first) * tf.reduce_max(self._main(second))
        step.tell_hypergradient(hypergradient, active)

    def _main(self, measured: Measured) -> Any:
        """Returns 1.0 for the main tasks that take part, `(num_tasks,)`."""
        return _main_tasks(self.step) * self.step.active(measured)


def _main_tasks(step: Step) -> Any:
    return tf.constant([0.0 if role.auxiliary else 1.0 for role in step.weighting.roles])


def _shift(variables: Sequence[Any], start: Sequence[Any], by: Sequence[Any], factor: Any) -> None:
    moved = [
        value + tf.cast(factor * part, value.dtype) for value, part in zip(start, by, strict=True)
    ]
    replicas.assign(variables, moved)


HYPERGRADIENTS: dict[str, Callable[[Step], Callable[[Any], None]]] = {
    "one_step": OneStepHypergradient,
}


def hypergradient_for(step: Step) -> Callable[[Any], None] | None:
    """Returns what the loss weighting of a step asks for, or `None`."""
    name = step.weighting.hypergradient
    return None if name is None else HYPERGRADIENTS[name](step)
