"""What a weighting or a balancing may know of each task."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TaskRole:
    """One task as methods see it.

    Args:
        name: String. The task's name.
        auxiliary: Boolean. Whether the task only helps the main ones.
        likelihood: `"classification"` where the loss is a cross-entropy, else `"regression"`.
        nonnegative: Boolean. Whether the loss is known never to be negative.
    """

    name: str
    auxiliary: bool = False
    likelihood: Literal["classification", "regression"] = "regression"
    nonnegative: bool = False


def main_tasks(roles: Sequence[TaskRole] | None, num_tasks: int) -> list[float]:
    """Returns 1.0 for main tasks and 0.0 for auxiliary ones; of plain arrays the first is main."""
    if roles is None:
        return [1.0] + [0.0] * (num_tasks - 1)
    return [float(not role.auxiliary) for role in roles]
