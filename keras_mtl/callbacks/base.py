"""What callbacks that act on tasks share."""

from collections.abc import Callable, Iterable
from typing import Any

import keras

from keras_mtl.core import checks
from keras_mtl.model import MultiTaskModel


class TaskCallback(keras.callbacks.Callback):
    """Base class of callbacks that act on the tasks of a `MultiTaskModel`."""

    def set_model(self, model: Any) -> None:
        """Takes the model, which must have tasks."""
        if not isinstance(model, MultiTaskModel):
            raise TypeError(
                f"{type(self).__name__} acts on the tasks of a MultiTaskModel, received "
                f"{checks.describe(model)}. Make the model with "
                "`keras_mtl.MultiTaskModel(inputs, outputs)`."
            )
        super().set_model(model)

    def check_tasks(self, argument: str, tasks: Iterable[str]) -> None:
        """Checks that all `tasks` are tasks of the model with a loss."""
        known = list(self.model.loss_weights)
        others = [task for task in self.model.tasks if task not in known]
        given = dict.fromkeys(tasks)
        checks.task_keys(argument, given, known, partial=True, without_loss=others)

    def check_inputs(self, x: Any, read: Callable[[], Any]) -> Any:
        """Returns what `read` makes of the first row of `x`, which must be what the model takes."""
        try:
            return read()
        except Exception as error:
            expected, received = (
                keras.tree.map_structure(lambda tensor: tuple(tensor.shape), structure)
                for structure in (self.model.input, x)
            )
            raise ValueError(
                f"`x` of {type(self).__name__} must be what the model takes, of shape {expected}, "
                f"received {received}. Give inputs as to `fit`, without labels. Reason: {error}"
            ) from error


def rows_between(arrays: Any, start: int, stop: int) -> Any:
    """Returns some of the rows of an array, or of each of a list or dict of arrays."""
    return keras.tree.map_structure(lambda values: values[start:stop], arrays)


def number_of_rows(argument: str, arrays: Any) -> int:
    """Returns how many rows an array, or a list or dict of arrays, has."""
    found = keras.tree.flatten(arrays)
    if not found or not all(len(getattr(array, "shape", ())) for array in found):
        raise TypeError(
            f"`{argument}` must be an array of rows, or a list or dict of arrays, as the model "
            f"takes them, received {checks.describe(arrays)}. Of a data set, give the arrays of a "
            "few batches."
        )
    rows = [int(array.shape[0]) for array in found]
    if min(rows) != max(rows) or not rows[0]:
        raise ValueError(
            f"Arrays in `{argument}` must have equally many rows, at least 1, received {rows}."
        )
    return rows[0]
