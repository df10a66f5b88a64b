"""How much each task is preferred, given by the user as numbers or by task name."""

from collections.abc import Mapping, Sequence
from typing import Any

from keras import ops

from keras_mtl.core import checks
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
        self.given = _checked(given)

    def check(self, roles: Sequence[TaskRole]) -> None:
        """Checks that the preference is for these tasks."""
        names = [role.name for role in roles]
        if isinstance(self.given, Mapping):
            checks.task_keys("preference", self.given, names, partial=True)
        elif self.given is not None:
            self._check_length(len(names))

    def shares(self, roles: Sequence[TaskRole] | None, active: Any) -> Any:
        """Returns the share of each active task, `(num_tasks,)`; the shares sum to 1.

        Args:
            roles: The tasks, or `None` for plain arrays, which have no names.
            active: Float tensor `(num_tasks,)`, 1.0 for tasks that take part.
        """
        numbers = ops.convert_to_tensor(self._numbers(roles, active.shape[0]), active.dtype)
        preferred = ops.where(active > 0, numbers, 0)
        return preferred / ops.maximum(ops.sum(preferred), _smallest(self.given))

    def _numbers(self, roles: Sequence[TaskRole] | None, num_tasks: int) -> list[float]:
        if self.given is None:
            return [1.0] * num_tasks
        if isinstance(self.given, Mapping):
            if roles is None:
                raise ValueError(
                    "`preference` by task name needs a model's tasks, and plain arrays have no "
                    f"names, received {checks.describe(self.given)}. Give a list of numbers."
                )
            return [self.given.get(role.name, 1.0) for role in roles]
        self._check_length(num_tasks)
        return self.given

    def _check_length(self, num_tasks: int) -> None:
        if len(self.given) != num_tasks:
            raise ValueError(
                f"`preference` must have one number a task, expected {num_tasks}, received "
                f"{checks.describe(self.given)}. Give a dict by task name to leave some out."
            )


def _checked(given: Any) -> Any:
    if given is None:
        return None
    if isinstance(given, Mapping):
        return {
            task: checks.positive_number(f"preference['{task}']", value)
            for task, value in given.items()
        }
    if isinstance(given, str) or not hasattr(given, "__iter__"):
        raise TypeError(
            "`preference` must be None, a list of numbers > 0 or a dict from task name to one, "
            f"received {checks.describe(given)}."
        )
    return [
        checks.positive_number(f"preference[{index}]", float(value))
        for index, value in enumerate(given)
    ]


def _smallest(given: Any) -> float:
    values = given.values() if isinstance(given, Mapping) else given
    # Where no task is active the sum is 0, and the shares are too.
    return min([1.0, *(values or ())])
