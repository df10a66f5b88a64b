"""The worst task alone."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Self

import keras
from keras import ops

from keras_mtl.core import checks, task_values
from keras_mtl.core.roles import TaskRole
from keras_mtl.weighting.base import LossWeighting


@keras.saving.register_keras_serializable(package="keras_mtl")
class Tchebycheff(LossWeighting):
    """Descends the loss of the worst task only.

    With preferences p and the ideal losses z, the total is max_i p_i (L_i - z_i) over the active
    tasks. The worst task has weight p_i, all others 0; tasks that tie for the worst share it
    evenly, p_i / (number of tied tasks). So the weights sum to 1 without preferences. Tasks of
    weight 0 have no gradient in that step, their heads included, and losses in other units
    need `preferences`. A user's constants `loss_weights` multiply the weights once the worst
    task is found: they change its step, not which task it is.

    Args:
        preferences: Optional dict from task name to float >= 0 (or a list, in the order of the
            tasks). How much a task's loss counts in the comparison; a task without one has 1.
        ideal: Optional dict from task name to float (or a list), in units of the losses: the
            best loss that the task can reach, from which on it counts as 0. By default 0.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks,)`, mean losses, unscaled; they may be negative.
    Output shape: `()`, the total.

    Raises:
        TypeError: If `preferences` or `ideal` is neither a dict nor a list of numbers.
        ValueError: If a number is not finite, a preference is < 0, or a name is of no task.

    Example:

    >>> keras_mtl.weighting.Tchebycheff().compute_weights([1.0, 4.0, 4.0])
    [0.0, 0.5, 0.5]
    >>> weighting = keras_mtl.weighting.Tchebycheff(preferences=[2.0, 1.0], ideal=[0.5, 0.0])
    >>> weighting([3.0, 4.0])
    5.0

    Reference:
        Miettinen 1999, Nonlinear multiobjective optimization, the weighted Tchebycheff problem,
        https://doi.org/10.1007/978-1-4615-5563-6; for multi-task learning X. Lin, X. Zhang,
        Yang, F. Liu, Wang, Q. Zhang 2024, Smooth Tchebycheff scalarization for multi-objective
        optimization, https://arxiv.org/abs/2402.19078.
        Differs from them: preferences need not sum to 1; a loss below the ideal counts as
        negative; among tied tasks, where any split is a subgradient, the split is even.
    """

    def __init__(
        self,
        preferences: Mapping[str, float] | Sequence[float] | None = None,
        ideal: Mapping[str, float] | Sequence[float] | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        at_least_0 = functools.partial(checks.finite_number, minimum=0)
        self.preferences = task_values.checked("preferences", preferences, at_least_0)
        self.ideal = task_values.checked("ideal", ideal, checks.finite_number)

    def bind(self, roles: Sequence[TaskRole]) -> Self:
        """Tells the method its tasks; names that are none of them are errors."""
        super().bind(roles)
        self._by_task("preferences", 1.0)
        self._by_task("ideal", 0.0)
        return self

    def _by_task(self, argument: str, default: float) -> Any:
        values = getattr(self, argument)
        numbers = task_values.in_order(
            argument, values, self.num_tasks, self.roles, default=default
        )
        return ops.convert_to_tensor(numbers, dtype="float32")

    def call(self, task_losses: Any, active: Any) -> Any:
        # p (L - z), compared among the active tasks
        scaled = self._by_task("preferences", 1.0) * (task_losses - self._by_task("ideal", 0.0))
        candidates = ops.where(active > 0, scaled, -float("inf"))
        worst = active * ops.cast(candidates >= ops.max(candidates), "float32")
        shares = worst / ops.maximum(ops.sum(worst), 1.0)
        return ops.sum(ops.stop_gradient(shares) * scaled)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "preferences": self.preferences, "ideal": self.ideal}
