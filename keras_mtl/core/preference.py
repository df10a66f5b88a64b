"""How much each task is preferred, given by the user as numbers or by task name."""

from collections.abc import Sequence
from typing import Any

from keras import ops

from keras_mtl.core import checks, task_values
from keras_mtl.core.roles import TaskRole


class Preference:
    """Positive numbers, one a task; only their ratios count.

    Args:
        given: `None` for equal preference, a sequence of numbers > 0 in the order of the tasks, or
            a dict from task name to a number > 0, in which tasks left out have 1.

    Raises:
        TypeError: If `given` is none of these.
        ValueError: If a number is not finite or not > 0.
    """

    def __init__(self, given: Any) -> None:
        self.given = task_values.checked("preference", given, checks.positive_number)

    def check(self, roles: Sequence[TaskRole]) -> None:
        """Checks that the preference is for these tasks."""
        self._numbers(roles, len(roles))

    def shares(self, roles: Sequence[TaskRole] | None, active: Any) -> Any:
        """Returns the share of each active task, `(num_tasks,)`; the shares sum to 1.

        Args:
            roles: The tasks, or `None` for plain arrays, which have no names.
            active: Float tensor `(num_tasks,)`, 1.0 for tasks that take part.
        """
        numbers = self._numbers(roles, active.shape[0])
        preferred = ops.where(active > 0, ops.convert_to_tensor(numbers, active.dtype), 0)
        # Where no task is active the sum is 0, and the shares are too.
        return preferred / ops.maximum(ops.sum(preferred), min(numbers))

    def _numbers(self, roles: Sequence[TaskRole] | None, num_tasks: int) -> list[float]:
        return task_values.in_order("preference", self.given, num_tasks, roles, default=1.0)
