"""The optimum of training as a function of the task weights, as in AuxiLearn."""

from typing import Any

import tensorflow as tf

from keras_mtl.core.step import Step
from keras_mtl.hypergradients.half_batches import HalfBatches


class ImplicitHypergradient:
    """Follows the main tasks' losses to the optimum that the task weights decide.

    The loss on half A, sum_k w_k L_k(A) and the regularizers, has the Hessian H. Where training
    on it has come to rest, the derivative of the main tasks' losses on half B with respect to w_k
    is -v . H^-1 grad L_k(A), with v their gradient (implicit function theorem). The inverse is
    the Neumann series alpha sum_{j <= J} (I - alpha H)^j: as far as J + 1 steps of plain gradient
    descent get. Products with H are differences of gradients.

    Args:
        step: The training `Step`.
        truncation: Integer >= 0. The number J of products with H.
        rate: Optional float > 0. The number alpha; by default the optimizer's learning rate.
    """

    def __init__(self, step: Step, truncation: int = 3, rate: float | None = None) -> None:
        self.step = step
        self.truncation = truncation
        self.rate = rate

    def __call__(self, data: Any) -> None:
        """Tells the loss weighting its hypergradient on a batch."""
        batches = HalfBatches(self.step, data)
        slope, second = batches.gradient(1, batches.main)
        first = batches.losses(0)[-1]
        # Constants of the loss, at whatever point it is measured.
        weights = self.step.effective_weights(first)
        rate = self.step.model.optimizer.learning_rate if self.rate is None else self.rate
        rate = tf.cast(rate, tf.float32)
        # The terms v (I - alpha H)^j and their sum.
        term = total = slope
        for _ in range(self.truncation):
            curved = batches.derivative(
                lambda: batches.gradient(0, lambda _: weights, regularized=True)[0], term
            )
            term = [part - rate * change for part, change in zip(term, curved, strict=True)]
            total = [part + more for part, more in zip(total, term, strict=True)]
        products = batches.derivative(lambda: [batches.losses(0)[-1].losses], total)[0]
        batches.tell(-rate * products, first, second)
