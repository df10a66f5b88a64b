"""Numbers that a user gives for each task: by name, or in the order of the tasks."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from keras_mtl.core import checks
from keras_mtl.core.roles import TaskRole


def checked(
    argument: str, values: Any, number: Callable[[str, Any], float]
) -> dict[str, float] | list[float] | None:
    """Returns a user's numbers as floats.

    Args:
        argument: String. The argument's name, for messages.
        values: A dict from task name to number, a sequence with one number a task, or `None`.
        number: A function of a name and a value that returns the value as a float or raises.
    """
    if values is None:
        return None
    if isinstance(values, Mapping):
        return {key: number(f"{argument}['{key}']", _plain(values[key])) for key in values}
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(
            f"`{argument}` must be a dict from task name to number, or a list with one number a "
            f"task, received {checks.describe(values)}."
        )
    return [number(f"{argument}[{index}]", _plain(value)) for index, value in enumerate(values)]


def _plain(value: Any) -> Any:
    """Returns the Python number of a number of NumPy's."""
    return value.item() if hasattr(value, "item") else value


def in_order(
    argument: str,
    values: Mapping[str, float] | Sequence[float] | None,
    num_tasks: int,
    roles: Sequence[TaskRole] | None,
    *,
    default: float,
) -> list[float]:
    """Returns one number a task, in the order of the tasks.

    Args:
        argument: String. The argument's name, for messages.
        values: What `checked` returned.
        num_tasks: Integer.
        roles: The tasks' roles, or `None` where tasks have no names.
        default: Float. The number of a task that `values` leaves out.
    """
    if values is None:
        return [default] * num_tasks
    if isinstance(values, Mapping):
        return _by_name(argument, values, num_tasks, roles, default)
    if len(values) != num_tasks:
        raise ValueError(
            f"`{argument}` must have one number a task. Expected {num_tasks}, received "
            f"{len(values)}: {list(values)}."
        )
    return list(values)


def _by_name(
    argument: str,
    values: Mapping[str, float],
    num_tasks: int,
    roles: Sequence[TaskRole] | None,
    default: float,
) -> list[float]:
    if roles is None:
        raise ValueError(
            f"`{argument}` is keyed by the task names {list(values)}, but losses in a plain array "
            f"have no names. Give a list of {num_tasks} numbers, in the order of the losses."
        )
    checks.task_keys(argument, values, [role.name for role in roles], partial=True)
    return [values.get(role.name, default) for role in roles]
