"""What a file holds for each task goes to the task of the same name, in whatever order."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

# The entry of a file that holds the names, as bytes: a file of Keras keeps numbers only.
TASKS = "tasks"


class SavedTasks:
    """Puts values of a file, with an entry a task, in the order of a model's tasks.

    `names` are the tasks of the file, and `differ` says whether the model has others.

    Args:
        tasks: List of strings, the model's tasks in order.
        store: What is loaded. Without names in it, entries go by position.
    """

    def __init__(self, tasks: Sequence[str], store: Any) -> None:
        self._own = list(tasks)
        self._saved = _names_in(store) if TASKS in store else self._own
        self.names = list(self._saved)
        self.differ = set(self._saved) != set(self._own)
        both = [task for task in self._own if task in self._saved]
        self._into = [self._own.index(task) for task in both]
        self._out_of = [self._saved.index(task) for task in both]

    def fits(self, value: Any, shape: Sequence[int], axes: int = 1) -> bool:
        """Whether a value of the file can be put into one of this shape."""
        of_tasks = (len(self._saved),) * axes
        return tuple(value.shape) == (*of_tasks, *shape[axes:])

    def put(self, value: Any, before: Any, axes: int = 1) -> Any:
        """Returns `value` in the model's order; tasks that are not in the file keep `before`.

        Args:
            value: Array of the file.
            before: Array, what the model has now.
            axes: Integer. How many leading axes have an entry a task.
        """
        value = np.asarray(value)
        if self._saved == self._own:
            return value
        merged = np.asarray(before).copy()
        merged[np.ix_(*[self._into] * axes)] = value[np.ix_(*[self._out_of] * axes)]
        return merged


def save_names(store: Any, tasks: Sequence[str]) -> None:
    """Saves the names of the tasks, in the order of what is saved beside them."""
    store[TASKS] = np.frombuffer(json.dumps(list(tasks)).encode(), "uint8")


def _names_in(store: Any) -> list[str]:
    return json.loads(np.asarray(store[TASKS]).tobytes())
