"""What a compiled model keeps beside its weights, so that a checkpoint resumes exactly."""

import warnings
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_mtl.core import checks
from keras_mtl.core.saved_tasks import SavedTasks, save_names

_BY_TASK = ("constants", "stopped", "effective")
_KEPT = "kept_"


class TrainingState(keras.layers.Layer):
    """Holds the constants, stopped tasks and last weights, and saves every random state.

    The model keeps it outside its tracked layers: it is saved and restored with the model, and
    adds nothing to `model.weights`, so weights go to and from plain Keras models as before.

    Args:
        constants: List of floats, the user's loss weights in task order.
        loss_weighting: The model's loss weighting, saved as a child.
        gradient_balancing: The model's gradient balancing or `None`, saved as a child.
        seed_generators: Function of no arguments that lists the `SeedGenerator` objects whose
            state Keras does not save, in a fixed order.
    """

    def __init__(
        self,
        constants: Sequence[float],
        loss_weighting: Any,
        gradient_balancing: Any,
        seed_generators: Callable[[], list[Any]],
    ) -> None:
        super().__init__(name="training_state", dtype="float32")
        self.loss_weighting = loss_weighting
        self.gradient_balancing = gradient_balancing
        self._list_seed_generators = seed_generators
        self._tasks = [role.name for role in loss_weighting.roles]
        size = len(constants)
        self.constants = self._variable("loss_weights", size)
        self.constants.assign(np.asarray(constants, "float32"))
        self.stopped = self._variable("stopped", size)
        self.effective = self._variable("task_weights", size)
        # One flag a task, and one for what all tasks share.
        self.nonfinite = self._variable("nonfinite", size + 1)
        self._kept: dict[str, Any] = {}
        self.built = True

    def _variable(self, name: str, size: int) -> Any:
        return self._zeros(name, (size,), "float32")

    def _zeros(self, name: str, shape: Sequence[int], dtype: str) -> Any:
        return self.add_weight(
            shape=tuple(shape),
            initializer="zeros",
            dtype=dtype,
            trainable=False,
            name=name,
            aggregation="only_first_replica",
        )

    def keep(self, name: str, shape: Sequence[int], dtype: str = "float32") -> Any:
        """Returns the variable saved with the model under `name`: made once, zeros at first.

        For callbacks: what they keep in Python is lost when a run is killed. A file loaded before
        anybody asks for the variable makes it, with the file's values.

        Args:
            name: String without "/".
            shape: Tuple of integers; a kept variable of another shape is replaced.
            dtype: String.
        """
        variable = self._kept.get(name)
        if variable is None or tuple(variable.shape) != tuple(shape):
            self._kept[name] = self._zeros(name, shape, dtype)
        return self._kept[name]

    def save_own_variables(self, store: Any) -> None:
        """Saves the variables by name, then the state of each seed generator."""
        save_names(store, self._tasks)
        for name in _BY_TASK:
            store[name] = np.asarray(getattr(self, name))
        for name, variable in self._kept.items():
            store[f"{_KEPT}{name}"] = np.asarray(variable)
        for index, generator in enumerate(self._list_seed_generators()):
            store[f"seed_{index}"] = np.asarray(generator.state)

    def load_own_variables(self, store: Any) -> None:
        """Restores what was saved; a file of a plain Keras model holds none of it.

        Tasks are found by name, and those that are not in the file keep what `compile` gave them.
        """
        self._load_by_task(store)
        for key in filter(lambda key: key.startswith(_KEPT), store.keys()):
            self._load_kept(key.removeprefix(_KEPT), np.asarray(store[key]))
        for index, generator in enumerate(self._list_seed_generators()):
            if f"seed_{index}" in store:
                generator.state.assign(np.asarray(store[f"seed_{index}"]))

    def _load_by_task(self, store: Any) -> None:
        values = {name: np.asarray(store[name]) for name in _BY_TASK if name in store}
        saved = SavedTasks(self._tasks, store)
        if not all(saved.fits(value, (len(self._tasks),)) for value in values.values()):
            warnings.warn(
                f"The file holds loss weights and stopped tasks of {values['constants'].size} "
                f"tasks without their names, expected those of {self._tasks}, which keep what "
                "`compile` gave them.",
                stacklevel=2,
            )
            return
        if values and saved.differ:
            warnings.warn(
                f"The file holds the tasks {saved.names}, the model {self._tasks}. What is kept "
                "of tasks goes by name, but Keras restores layers by position: see that each head "
                "has got the weights of its own task.",
                stacklevel=2,
            )
        for name, value in values.items():
            variable = getattr(self, name)
            variable.assign(saved.put(value, variable))

    def _load_kept(self, name: str, value: Any) -> None:
        # Of another shape it belongs to other tasks than those of who has asked for it.
        if name not in self._kept or tuple(self._kept[name].shape) == value.shape:
            self.keep(name, value.shape, str(value.dtype)).assign(value)


class TaskValues(MutableMapping):
    """A live mapping from task name to the entry of a variable.

    Args:
        argument: String. The property's name, for errors.
        tasks: List of strings, the order of the entries.
        variable: Variable of shape `(num_tasks,)`.
        read_only: Boolean.
    """

    def __init__(
        self, argument: str, tasks: Sequence[str], variable: Any, *, read_only: bool = False
    ) -> None:
        self._argument = argument
        self._index = {task: index for index, task in enumerate(tasks)}
        self._variable = variable
        self._read_only = read_only

    def __getitem__(self, task: str) -> float:
        return float(np.asarray(self._variable)[self._position(task)])

    def __setitem__(self, task: str, value: float) -> None:
        if self._read_only:
            raise TypeError(
                f"`{self._argument}` is read-only: it shows the effective weights of the last "
                "step. Set `model.loss_weights` to change the user's constants."
            )
        position = self._position(task)
        values = np.asarray(self._variable).copy()
        values[position] = checks.loss_weight(f"{self._argument}['{task}']", value)
        self._variable.assign(values)

    def __delitem__(self, task: str) -> None:
        raise TypeError(
            f"`{self._argument}` has one entry a task; none can be deleted. Set it to 0.0."
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def __repr__(self) -> str:
        return repr(dict(self))

    def _position(self, task: str) -> int:
        if task not in self._index:
            raise KeyError(
                f"`{self._argument}` has no task '{task}'. Expected one of {list(self._index)}."
                + checks.suggestion(task, self._index)
            )
        return self._index[task]
