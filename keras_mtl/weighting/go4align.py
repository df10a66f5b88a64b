"""One weight for each group of tasks with like losses and histories."""

from typing import Any

import keras
from keras import ops

from keras_mtl.core import checks, shares
from keras_mtl.core.kmeans import group_means
from keras_mtl.weighting.base import LossWeighting

MIN_LOSS = 1e-8
MAX_WEIGHT = 1e6


@keras.saving.register_keras_serializable(package="keras_mtl")
class GO4Align(LossWeighting):
    """Weights groups of tasks, found by clustering their scaled losses.

    A task's indicator is its scale times its share, gamma_i = (sum_j L_j / L_i) Q_i. The share
    falls with the losses seen so far, Q_i ~ exp(-step_size sum_t L_i(t)), the current one
    included, and sums to 1. K-means puts the gamma of the active tasks into groups; each task
    gets the mean of its group as weight w_i, a constant of the step, and the total is
    sum_i w_i L_i. Without grouping (`num_groups` >= number of tasks) that total is the sum of
    the losses, of which task i contributes the share Q_i. Equal losses have weights of 1; in
    general the weights sum to sum_i gamma_i, as grouping keeps sums. A user's constant c_i
    multiplies w_i after the grouping and is not undone, also within a group.

    Losses count as at least 1e-8 in gamma, and gamma is clipped to [1e-6, 1e6]. An absent task
    joins no group and keeps its share; the shares of the others divide what is left.

    Args:
        num_groups: Integer >= 1, at most so many groups. With fewer active tasks each is a
            group of its own; 1 gives all tasks the same weight.
        step_size: Float >= 0, in units of 1 / loss. How fast shares move towards the tasks
            with the smallest losses; 0 keeps them equal.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks,)`, mean losses, each >= 0, unscaled.
    Output shape: `()`, the total.

    Raises:
        TypeError: If `num_groups` is not an integer or `step_size` not a number.
        ValueError: If `num_groups` < 1, `step_size` is not finite and >= 0, or a loss is
            negative.

    Example:

    >>> weighting = keras_mtl.weighting.GO4Align(num_groups=2, step_size=0.0)
    >>> weighting.compute_weights([1.0, 2.0, 4.0])  # gamma = 7/3, 7/6, 7/12
    [2.33333, 0.875, 0.875]

    Reference:
        Shen, Q. Wang, Xiao, Van Noord, Worring 2024, GO4Align: group optimization for
        multi-task alignment, equations 3 to 7, https://arxiv.org/abs/2404.06486. Two groups
        are the paper's choice for three tasks (five for eleven); the step size, its beta, is
        the default of the authors' code.
        Differs from the paper: the scale has the sum of the losses in place of their mean, as
        in the authors' code; k-means is exact; gamma is clipped; absent tasks are left out.
    """

    takes_negative_losses = False

    def __init__(
        self,
        num_groups: int = 2,
        step_size: float = 1e-4,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.num_groups = checks.positive_integer("num_groups", num_groups)
        self.step_size = checks.finite_number("step_size", step_size, minimum=0.0)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        # log(num_tasks Q): 0 for equal shares, however many tasks there are.
        self.log_shares = self.add_task_variable("log_shares")

    def call(self, task_losses: Any, active: Any) -> Any:
        losses = ops.maximum(task_losses, MIN_LOSS)
        log_shares = self.log_shares + self._share_steps(losses, active)
        indicators = ops.sum(active * losses) / losses * shares.softmax(log_shares, active)
        indicators = ops.clip(indicators, 1.0 / MAX_WEIGHT, MAX_WEIGHT)
        weights = group_means(indicators, active, self.num_groups)
        return ops.sum(active * ops.stop_gradient(weights) * task_losses)

    def _share_steps(self, losses: Any, active: Any) -> Any:
        """Returns by how much the log shares change: the active tasks' shares keep their sum."""
        # Q_t = sigma[Q_(t-1) exp(-beta L_t)], with sigma as a shift of all logarithms
        decay = -self.step_size * losses
        before = shares.log_softmax(self.log_shares, active)
        return decay - ops.logsumexp(ops.where(active > 0, before + decay, shares.ABSENT))

    def update_state(self, task_losses: Any, active: Any) -> None:
        task_losses, active = self._standardize(task_losses, active)
        losses = ops.maximum(ops.where(active > 0, task_losses, 1.0), MIN_LOSS)
        steps = self._share_steps(losses, active)
        self.log_shares.assign_add(ops.where(active > 0, steps, 0.0))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_groups": self.num_groups,
            "step_size": self.step_size,
        }
