"""The optimal uncertainty weights in closed form, through a softmax."""

from typing import Any

import keras
from keras import ops

from keras_mtl.core import checks, shares
from keras_mtl.weighting.base import LossWeighting

MIN_LOSS = 1e-8
# Logits up to 1e38, which float32 still holds; the softmax is one-hot long before.
MIN_TEMPERATURE = 1e-30


@keras.saving.register_keras_serializable(package="keras_mtl")
class AnalyticUncertainty(LossWeighting):
    """Weights tasks by a softmax of their inverse losses.

    The weights are w = softmax((1 / L) / temperature) over the active tasks, and the total is
    sum_i w_i L_i. 1 / L_i is the weight that learned uncertainty tends to, so there is nothing
    to train; the softmax bounds it. The weights are constants of the step and sum to 1, so the
    total is a weighted mean of the losses: beside a sum of them the gradients of m tasks are
    about m times smaller. A user's constant c_i multiplies w_i after the softmax and is not
    undone. Losses below 1e-8 count as 1e-8 in the weights.

    Args:
        temperature: Float > 0, in units of 1 / loss. The higher it is, the nearer the weights
            come to equal ones; towards 0 the task with the smallest loss gets all the weight.
            Tune it to the losses: 1 suits losses of about 1, far smaller ones need far more.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks,)`, mean losses, each >= 0, unscaled.
    Output shape: `()`, the total.

    Raises:
        TypeError: If `temperature` is not a number.
        ValueError: If `temperature` is not finite and > 0, or a loss is negative.

    Example:

    >>> keras_mtl.weighting.AnalyticUncertainty().compute_weights([1.0, 2.0, 4.0])
    [0.48102, 0.29176, 0.22722]

    Reference:
        Kirchdorfer, Elich, Kutsche, Stuckenschmidt, Schott, Köhler 2024, Analytical
        uncertainty-based loss weighting in multi-task learning, equation 4 (UW-SO),
        https://arxiv.org/abs/2408.07985. It tunes the temperature for each data set and names
        no default; 1 is that of public code.
        Differs from the paper: the softmax runs over the active tasks, and losses in the
        weights are at least 1e-8.
    """

    takes_negative_losses = False

    def __init__(self, temperature: float = 1.0, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.temperature = checks.positive_number("temperature", temperature)

    def call(self, task_losses: Any, active: Any) -> Any:
        # w = softmax(1 / (sg[L] T)), sg the stop-gradient of the paper
        inverse = 1.0 / ops.maximum(task_losses, MIN_LOSS)
        logits = inverse / max(self.temperature, MIN_TEMPERATURE)
        weights = shares.softmax(logits, active)
        return ops.sum(ops.stop_gradient(weights) * task_losses)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "temperature": self.temperature}
