"""Weights from how fast each task's loss fell in the epochs before."""

from typing import Any

import keras
from keras import ops

from keras_mtl.core import checks, shares
from keras_mtl.weighting.base import LossWeighting

# Far beyond it a softmax is one-hot anyway; without it 1e8 / 1e-38 is infinite.
MAX_RATIO = 1e6


@keras.saving.register_keras_serializable(package="keras_mtl")
class DynamicWeightAverage(LossWeighting):
    """Weights tasks by how slowly their losses fell over the last two epochs.

    With r_i the mean loss of the last epoch divided by that of the epoch before, and m active
    tasks, the weights are w = m softmax(r / temperature), constants within an epoch, and the
    total is sum_i w_i L_i. In a task's first two epochs r_i = 1, as it is when the loss before
    was 0 (or negative); ratios are limited to 1e6. A task without labels for an epoch keeps
    its ratio. Epochs are those of `fit`: in a loop of `train_on_batch` call `on_epoch_begin`.

    Args:
        temperature: Float > 0. The higher it is, the nearer the weights stay to 1.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks,)`, mean losses, each >= 0, unscaled.
    Output shape: `()`, the total.

    Raises:
        TypeError: If `temperature` is not a number.
        ValueError: If `temperature` is not finite and > 0.

    Example:

    >>> weighting = keras_mtl.weighting.DynamicWeightAverage(temperature=2.0)
    >>> for losses in ([1.0, 1.0], [1.0, 4.0]):
    ...     weighting.update_state(losses, active=[1.0, 1.0])
    ...     weighting.on_epoch_begin()
    >>> weighting.compute_weights([1.0, 4.0])
    [0.36485, 1.63515]

    Reference:
        S. Liu, Johns, Davison 2019, End-to-end multi-task learning with attention, equation 7,
        https://arxiv.org/abs/1803.10704.
        Differs from the paper: the softmax runs over the active tasks, and ratios that a loss
        of 0 would make infinite are defined as above.
    """

    def __init__(self, temperature: float = 2.0, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.temperature = checks.positive_number("temperature", temperature)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.loss_sum = self.add_task_variable("loss_sum")
        self.num_steps = self.add_task_variable("num_steps")
        # L(t-1) and L(t-2); 0 as long as there was no such epoch.
        self.last_mean = self.add_task_variable("last_mean")
        self.mean_before = self.add_task_variable("mean_before")

    def call(self, task_losses: Any, active: Any) -> Any:
        weights = ops.sum(active) * shares.softmax(self._ratios() / self.temperature, active)
        return ops.sum(ops.stop_gradient(weights) * task_losses)

    def _ratios(self) -> Any:
        known = self.mean_before > 0
        ratios = self.last_mean / ops.where(known, self.mean_before, 1.0)
        return ops.where(known, ops.clip(ratios, -MAX_RATIO, MAX_RATIO), 1.0)

    def update_state(self, task_losses: Any, active: Any) -> None:
        task_losses, active = self._standardize(task_losses, active)
        self.loss_sum.assign_add(ops.where(active > 0, task_losses, 0.0))
        self.num_steps.assign_add(active)

    def on_epoch_begin(self) -> None:
        if not self.built:
            return
        seen = self.num_steps > 0
        mean = self.loss_sum / ops.maximum(self.num_steps, 1.0)
        self.mean_before.assign(ops.where(seen, self.last_mean, self.mean_before))
        self.last_mean.assign(ops.where(seen, mean, self.last_mean))
        self.loss_sum.assign(ops.zeros_like(self.loss_sum))
        self.num_steps.assign(ops.zeros_like(self.num_steps))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "temperature": self.temperature}
