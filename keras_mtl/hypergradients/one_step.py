"""One virtual step ahead, as in Auto-Lambda."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_mtl.core import replicas
from keras_mtl.core.step import Step
from keras_mtl.hypergradients.half_batches import HalfBatches

# The perturbation's length over all variables, as in DARTS (Liu, Simonyan, Yang 2019).
PERTURBATION = 0.01


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
        slope, second = batches.gradient(1, batches.main)
        epsilon = tf.math.divide_no_nan(PERTURBATION, tf.linalg.global_norm(slope))
        losses = []
        for sign in (1.0, -1.0):
            _shift(variables, before, slope, sign * epsilon)
            losses.append(batches.losses(0)[-1].losses)
        replicas.assign(variables, before)
        products = tf.math.divide_no_nan(losses[0] - losses[1], 2.0 * epsilon)
        batches.tell(-rate * products, first, second)


def _shift(variables: Sequence[Any], start: Sequence[Any], by: Sequence[Any], factor: Any) -> None:
    moved = [
        value + tf.cast(factor * part, value.dtype) for value, part in zip(start, by, strict=True)
    ]
    replicas.assign(variables, moved)
