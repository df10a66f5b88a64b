"""One virtual step ahead, as in Auto-Lambda."""

from typing import Any

import tensorflow as tf

from keras_mtl.core.step import Step
from keras_mtl.hypergradients.half_batches import HalfBatches


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
        batches = HalfBatches(self.step, data)
        rate = tf.cast(self.step.model.optimizer.learning_rate, tf.float32)
        gradient, first = batches.gradient(0, self.step.effective_weights)
        batches.shift(gradient, -rate)
        slope, second = batches.gradient(1, batches.main)
        products = batches.derivative(lambda: [batches.losses(0)[-1].losses], slope)[0]
        batches.tell(-rate * products, first, second)
