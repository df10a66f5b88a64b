"""What loss weightings and gradient balancings share: tasks, state a task, epochs."""

import contextlib
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import keras
from keras import ops

from keras_mtl.core.roles import TaskRole
from keras_mtl.core.saved_tasks import TASKS, SavedTasks, save_names


class Method(keras.layers.Layer):
    """Base class of everything that is chosen at `compile` and keeps state a task.

    It is a layer, so that its variables are saved and its config serialised as any layer's,
    but it works in float32 and takes no part in the model's graph.

    A method that draws at random says so in `random`, with what it means for the order of tasks,
    and in `draws_blindly` if it weights tasks without a look at what it is given.

    What it has saved of each task is restored by the task's name: the entries of task variables,
    and of a variable `(num_tasks, num_tasks)`, which is taken to have one a pair of tasks.

    Args:
        name: Optional string. Name of the layer.
    """

    random: str | None = None
    draws_blindly = False

    def __init__(self, name: str | None = None, **kwargs: Any) -> None:
        kwargs.pop("dtype", None)
        super().__init__(name=name, dtype="float32", autocast=False, **kwargs)
        self.num_tasks: int | None = None
        self._owner: Any = None
        self.roles: tuple[TaskRole, ...] | None = None
        self._task_variables: list[Any] = []

    @property
    def task_variables(self) -> list[Any]:
        """The variables with one entry a task; entries of absent tasks are put back."""
        return list(self._task_variables)

    def bind(self, roles: Sequence[TaskRole]) -> Self:
        """Tells the method its tasks and builds it, once, for their number."""
        self.check_num_tasks("tasks of this model", len(roles))
        self.roles = tuple(roles)
        self.build_for(len(roles))
        return self

    def owned_by(self, model: Any, roles: Sequence[TaskRole]) -> Self:
        """Returns this method bound to a model's tasks: a fresh copy if another model has it."""
        owner = None if self._owner is None else self._owner()
        if owner is not None and owner is not model:
            return type(self).from_config(self.get_config()).owned_by(model, roles)
        self._owner = weakref.ref(model)
        return self.bind(roles)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.num_tasks = input_shape[0]

    def build_for(self, num_tasks: int) -> None:
        """Builds the method for `num_tasks` tasks, unless it is built already."""
        if not self.built:
            self.build((num_tasks, None))

    def check_num_tasks(self, what: str, received: int) -> None:
        """Raises if the method was built for another number of tasks."""
        if self.built and received != self.num_tasks:
            raise ValueError(
                f"{type(self).__name__} '{self.name}' was built for {self.num_tasks} tasks, "
                f"received {received} {what}. Make a new {type(self).__name__} for them."
            )

    def add_task_variable(
        self,
        name: str,
        initializer: Any = "zeros",
        *,
        trainable: bool = False,
        bound: float | None = None,
    ) -> Any:
        """Adds a float variable of shape `(num_tasks,)` whose entries belong to the tasks.

        The optimizer keeps a trainable one within +-`bound`, where it is given.
        """
        variable = self.add_weight(
            shape=(self.num_tasks,),
            initializer=initializer,
            trainable=trainable,
            name=name,
            constraint=None if bound is None else lambda values: ops.clip(values, -bound, bound),
            aggregation="only_first_replica",
        )
        self._task_variables.append(variable)
        return variable

    @contextlib.contextmanager
    def added_late(self) -> Iterator[None]:
        """Lets variables be added after `build`, once it is known how many there must be."""
        self._tracker.unlock()
        try:
            yield
        finally:
            self._tracker.lock()

    def on_epoch_begin(self) -> None:
        """Hook: rolls per-epoch state over; called outside the graph before each epoch.

        At the beginning and not the end, because `BackupAndRestore` saves at the end.
        """

    def save_own_variables(self, store: Any) -> None:
        """Saves the variables under their names, which tell one method's state from another's."""
        own = self._by_key()
        if own and self.roles is not None:
            save_names(store, self._task_names())
        for key, variable in own.items():
            store[key] = variable

    def load_own_variables(self, store: Any) -> None:
        """Loads the state; a file without it, such as a plain model's, leaves this one's."""
        own = self._by_key()
        found = {*store.keys()} - {TASKS}
        if found == set(own):
            self._load(own, store)
        elif found:
            self._warn_of(f"{sorted(found)} of another method, expected {sorted(own)}")

    def _load(self, own: Mapping[str, Any], store: Any) -> None:
        saved = SavedTasks(self._task_names(), store)
        axes = {key: self._axes_of_tasks(variable) for key, variable in own.items()}
        for key, variable in own.items():
            if not saved.fits(store[key], variable.shape, axes[key]):
                shapes = f"{tuple(store[key].shape)}, expected {tuple(variable.shape)}"
                self._warn_of(f"'{key}' of the shape {shapes}")
                return
        for key, variable in own.items():
            variable.assign(saved.put(store[key], variable, axes[key]))

    def _warn_of(self, state: str) -> None:
        warnings.warn(
            f"The file holds the state {state} for {type(self).__name__}, which starts afresh.",
            stacklevel=3,
        )

    def _task_names(self) -> list[str]:
        """Returns the names of the tasks; their positions where none were told."""
        if self.roles is None:
            return [str(position) for position in range(self.num_tasks or 0)]
        return [role.name for role in self.roles]

    def _axes_of_tasks(self, variable: Any) -> int:
        """Returns how many leading axes of a variable have an entry a task."""
        if any(variable is own for own in self.task_variables):
            return 1
        return 2 if tuple(variable.shape) == (self.num_tasks, self.num_tasks) else 0

    def _by_key(self) -> dict[str, Any]:
        own = [*self._trainable_variables, *self._non_trainable_variables]
        return {f"{index}_{variable.name}": variable for index, variable in enumerate(own)}

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name}
