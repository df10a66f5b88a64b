"""Weights from how much each loss still varies."""

from typing import Any

import keras
from keras import ops

from keras_mtl.core import checks
from keras_mtl.weighting.base import LossWeighting

MIN_LOSS = 1e-8
# A jump beyond it says no more; its square is kept in float32.
MAX_RATIO = 1e6
# Under the square root, as in the authors' code: no task has a variation of exactly 0.
MIN_VARIANCE = 1e-8


@keras.saving.register_keras_serializable(package="keras_mtl")
class CoefficientOfVariation(LossWeighting):
    """Weights tasks by the coefficient of variation of their loss ratios.

    The ratio l_i = L_i / (mean of L_i over the steps before) has the mean mu_i and the standard
    deviation sigma_i over all steps before; w_i is sigma_i / mu_i, scaled so that the weights
    sum to 1, and the total is sum_i w_i L_i. So a task whose loss has settled makes way for
    those that still change. The weights are constants of the step and do not depend on the
    units of the losses, but w_i L_i does. In a task's first two steps its weight is 1 / m for m
    active tasks, and the others share what is left. A user's constant c_i multiplies w_i and is
    not undone.

    Losses and means in the ratio are at least 1e-8, ratios at most 1e6; 1e-8 is added to the
    variance. The statistics of a task move in the steps that have its labels.

    Args:
        decay: Optional float in [0, 1]. Share of the old mean in the running means of L and l;
            by default they are the plain means of all steps. The variance sums over all steps
            either way.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks,)`, mean losses, each >= 0, unscaled.
    Output shape: `()`, the total.

    Raises:
        TypeError: If `decay` is not a number.
        ValueError: If `decay` is outside [0, 1], or a loss is negative.

    Example:

    >>> weighting = keras_mtl.weighting.CoefficientOfVariation()
    >>> for losses in ([4.0, 1.0], [2.0, 1.2]):  # ratios (1, 1), then (1/2, 6/5)
    ...     weighting.update_state(losses, active=[1.0, 1.0])
    >>> weighting.compute_weights([2.0, 1.2])  # sigma / mu = 1/3 and 1/11
    [0.78571, 0.21429]

    Reference:
        Groenendijk, Karaoglu, Gevers, Mensink 2021, Multi-loss weighting with coefficient of
        variations, equations 3 and 4, https://arxiv.org/abs/2009.01717, and the authors' code,
        https://github.com/rickgroen/cov-weighting: the first two steps, Welford's algorithm,
        "full" as default of its two kinds of mean.
        Differs from the paper: it weights the losses of one task; steps are counted for each
        task; the bounds of losses and ratios.
    """

    takes_negative_losses = False

    def __init__(self, decay: float | None = None, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        if decay is not None:
            decay = checks.finite_number("decay", decay, minimum=0, maximum=1)
        self.decay = decay

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.num_steps = self.add_task_variable("num_steps")
        self.mean_losses = self.add_task_variable("mean_losses")
        self.mean_ratios = self.add_task_variable("mean_ratios")
        self.square_sums = self.add_task_variable("square_sums")

    def call(self, task_losses: Any, active: Any) -> Any:
        ready = active * ops.cast(self.num_steps > 1, "float32")
        variations = ready * self._variations()
        shares = variations / ops.maximum(ops.sum(variations), 1e-30)
        waiting = active - ready
        weights = (ops.sum(ready) * shares + waiting) / ops.maximum(ops.sum(active), 1.0)
        return ops.sum(ops.stop_gradient(weights) * task_losses)

    def _variations(self) -> Any:
        # sigma / mu, with the variance of n steps
        variances = self.square_sums / ops.maximum(self.num_steps, 1.0)
        deviations = ops.sqrt(variances + MIN_VARIANCE)
        return deviations / ops.maximum(self.mean_ratios, MIN_LOSS)

    def update_state(self, task_losses: Any, active: Any) -> None:
        task_losses, active = self._standardize(task_losses, active)
        losses = ops.maximum(ops.where(active > 0, task_losses, 1.0), MIN_LOSS)
        first = self.num_steps < 1
        ratios = losses / ops.where(first, losses, ops.maximum(self.mean_losses, MIN_LOSS))
        ratios = ops.minimum(ratios, MAX_RATIO)
        kept = active * ops.where(first, 0.0, self._kept())
        self._move(losses, ratios, active, kept)

    def _kept(self) -> Any:
        """Returns the share of the old mean in the new one."""
        return 1.0 - 1.0 / (self.num_steps + 1.0) if self.decay is None else self.decay

    def _move(self, losses: Any, ratios: Any, active: Any, kept: Any) -> None:
        # Welford: S += (l - mu)(l - mu'), and l - mu' is the kept share of l - mu.
        new = active * (1.0 - kept)
        self.square_sums.assign_add(kept * ops.square(ratios - self.mean_ratios))
        self.mean_ratios.assign_add(new * (ratios - self.mean_ratios))
        self.mean_losses.assign_add(new * (losses - self.mean_losses))
        self.num_steps.assign_add(active)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "decay": self.decay}
