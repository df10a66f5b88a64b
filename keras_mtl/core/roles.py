"""What a weighting or a balancing may know of each task."""

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
