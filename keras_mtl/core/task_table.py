"""Numbers a task that a callback keeps with the model."""

from collections.abc import Sequence
from typing import Any

import numpy as np


class TaskTable:
    """Named rows of one number a task, in a variable that is saved with the model; zeros at first.

    Args:
        state: The model's `TrainingState`.
        name: String. What the variable is saved under.
        rows: List of strings.
        tasks: List of strings.
    """

    def __init__(self, state: Any, name: str, rows: Sequence[str], tasks: Sequence[str]) -> None:
        # Whole numbers and logged values, neither of them rounded.
        self._variable = state.keep(name, (len(rows), len(tasks)), "float64")
        self._rows = list(rows)
        self._tasks = list(tasks)

    def row(self, name: str) -> dict[str, float]:
        """Returns the numbers of a row by task."""
        values = np.asarray(self._variable)[self._rows.index(name)]
        return dict(zip(self._tasks, values.tolist(), strict=True))

    def set(self, task: str, **values: float) -> None:
        """Sets numbers of a task by row."""
        table = np.asarray(self._variable).copy()
        for name, value in values.items():
            table[self._rows.index(name), self._tasks.index(task)] = value
        self._variable.assign(table)

    def clear(self) -> None:
        """Sets everything to 0."""
        self._variable.assign(np.zeros(self._variable.shape))
