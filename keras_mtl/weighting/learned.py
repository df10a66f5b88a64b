"""Trainable task weights, kept positive by a log barrier."""

from typing import Any

import keras
from keras import ops

from keras_mtl.core import checks, shares
from keras_mtl.weighting.base import LossWeighting

BOUND = 20.0


@keras.saving.register_keras_serializable(package="keras_mtl")
class Learned(LossWeighting):
    """Trains the task weights themselves, behind a barrier that keeps them from 0.

    With m active tasks and weights w = m softmax(s), which sum to m, the total is
    sum_i w_i L_i - strength sum_i log w_i. Without the second term the weights of hard tasks
    collapse to 0. It is 0 at equal weights and infinite where a weight is 0, so at the optimum
    w_i = strength / (L_i - mu): positive, and larger for easier tasks; mu makes the sum m.
    Updates keep the logits s within +-20, so that no weight is rounded to 0 either.

    Args:
        strength: Float > 0, in units of the losses. The larger it is beside the differences
            between losses, the nearer the weights stay to 1.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks,)`, mean losses, unscaled.
    Output shape: `()`, the total.

    Raises:
        TypeError: If `strength` is not a number.
        ValueError: If `strength` is not finite and > 0.

    Example:

    >>> weighting = keras_mtl.weighting.Learned()
    >>> weighting.compute_weights([4.0, 1.0])
    [1.0, 1.0]
    >>> _ = weighting.logits.assign([0.0, np.log(3.0)])
    >>> weighting.compute_weights([4.0, 1.0])
    [0.5, 1.5]

    Reference:
        Kendall, Gal, Cipolla 2018, section 3.2, https://arxiv.org/abs/1705.07115, on the collapse
        of weights trained without such a term; the logarithmic barrier is that of Boyd,
        Vandenberghe 2004, Convex optimization, section 11.2, https://stanford.edu/~boyd/cvxbook.
    """

    def __init__(self, strength: float = 1.0, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.strength = checks.positive_number("strength", strength)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.logits = self.add_task_variable("logits", trainable=True, bound=BOUND)

    def call(self, task_losses: Any, active: Any) -> Any:
        # log w = log m + log softmax(s); at least 1 for m, because all tasks may be absent.
        num_active = ops.maximum(ops.sum(active), 1.0)
        log_weights = ops.log(num_active) + shares.log_softmax(self.logits, active)
        barrier = -self.strength * log_weights
        return ops.sum(active * (ops.exp(log_weights) * task_losses + barrier))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "strength": self.strength}
