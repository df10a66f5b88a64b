"""Each loss in units of its own running mean."""

from typing import Any

import keras
from keras import ops

from keras_mtl.core import checks
from keras_mtl.weighting.base import LossWeighting

MIN_MEAN = 1e-8


@keras.saving.register_keras_serializable(package="keras_mtl")
class RunningScale(LossWeighting):
    """Divides each loss by its running mean.

    With M_i the exponential moving average of L_i, corrected for its start at 0, the weights
    are w_i = 1 / M_i, constants of the step, and the total is sum_i w_i L_i. M_i counts the
    current loss, so it exists from the first step on, where w_i L_i = 1, and no w_i L_i can
    pass 1 / (1 - momentum), however far a loss jumps. The weights have no fixed sum: the total
    stays near the number of active tasks, and a task's unit cancels. A user's constant c_i
    counts in full, as c_i L_i / M_i. M_i is at least 1e-8, which bounds the weight of a loss of
    0. A task without labels keeps its mean.

    Args:
        momentum: Float in [0, 1]. Share of M_i kept from step to step: 0 divides each loss by
            itself, 1 by the plain mean of all steps so far; the default averages about 100.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks,)`, mean losses, each >= 0, unscaled.
    Output shape: `()`, the total.

    Raises:
        TypeError: If `momentum` is not a number.
        ValueError: If `momentum` is outside [0, 1], or a loss is negative.

    Example:

    >>> weighting = keras_mtl.weighting.RunningScale(momentum=0.5)
    >>> weighting.compute_weights([4.0, 1.0])
    [0.25, 1.0]
    >>> weighting.update_state([4.0, 1.0], active=[1.0, 1.0])
    >>> weighting.compute_weights([1.0, 1.0])  # M = (4 / 2 + 1) / (1 / 2 + 1)
    [0.5, 1.0]

    Reference:
        Common practice; as a published method Lakkapragada, Sleiman, Surabhi, Wall 2022,
        Mitigating negative transfer in multi-task learning with exponential moving average loss
        weighting strategies, https://arxiv.org/abs/2211.12999. The correction is that of Kingma,
        Ba 2015, Adam, section 3, https://arxiv.org/abs/1412.6980. It, the current loss in the
        mean, the bound and the default of `momentum` (Keras' for averages of weights) are
        choices made here.
    """

    takes_negative_losses = False

    def __init__(self, momentum: float = 0.99, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.momentum = checks.finite_number("momentum", momentum, minimum=0.0, maximum=1.0)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        # Their quotient is the corrected average, without the 0 / 0 of 1 - momentum^t at 1.
        self.loss_sum = self.add_task_variable("loss_sum")
        self.num_steps = self.add_task_variable("num_steps")

    def call(self, task_losses: Any, active: Any) -> Any:
        # M = sum_s momentum^(t - s) L_s / sum_s momentum^(t - s)
        loss_sum, num_steps = self._with_current(task_losses)
        weights = 1.0 / ops.maximum(loss_sum / num_steps, MIN_MEAN)
        return ops.sum(active * ops.stop_gradient(weights) * task_losses)

    def _with_current(self, task_losses: Any) -> tuple[Any, Any]:
        return self.momentum * self.loss_sum + task_losses, self.momentum * self.num_steps + 1.0

    def update_state(self, task_losses: Any, active: Any) -> None:
        task_losses, active = self._standardize(task_losses, active)
        loss_sum, num_steps = self._with_current(task_losses)
        self.loss_sum.assign(ops.where(active > 0, loss_sum, self.loss_sum))
        self.num_steps.assign(ops.where(active > 0, num_steps, self.num_steps))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "momentum": self.momentum}
