"""Early stopping, task by task."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras.src.utils import io_utils

from keras_mtl.callbacks.base import TaskCallback
from keras_mtl.core import checks
from keras_mtl.core.kept import DETACHED, HEADS
from keras_mtl.core.logbook import LogBook
from keras_mtl.core.task_table import TaskTable

# Epochs are kept plus 1: 0 stands for none.
ROWS = ("seen", "wait", "best", "best_epoch", "end_value", "stopped_epoch")


class TaskEarlyStopping(TaskCallback):
    """Stops each task when its own monitored value has stopped improving.

    A stopped task is absent for what is shared: the trunk and the methods go on with the others,
    without a new trace. Training ends when all main tasks have stopped; auxiliary tasks never keep
    it alive. `stopped_epoch`, `end_value`, `best` and `best_epoch` tell by task, with epochs from
    0, when it stopped, at what value, and its best.

    What the callback knows is saved with the model: a run that is resumed, by `BackupAndRestore`
    or at `initial_epoch`, stops where an unbroken one does. A `fit` that starts anew starts anew
    here too, and resumes the tasks that this callback had stopped. In a `fit` without it, or with
    other arguments, they stay stopped until `model.resume_task(task)`. An epoch in which no label
    of a task was there does not count for it.

    A run that is cut after its last epoch and resumed takes one more step: Keras asks after a
    batch whether to stop.

    Args:
        monitor: String. Name in the logs, in which `{task}` stands for each task's name.
        min_delta: Float. A smaller change does not count as better.
        patience: Integer >= 0. Epochs without a better value before the task is stopped.
        verbose: Integer. 1 prints what is stopped and its end value, 0 nothing.
        mode: `"min"`, `"max"`, or `"auto"`, which asks the compiled metrics.
        tasks: Optional list of the tasks to watch; by default all that have a loss.
        head: `"train"` trains a stopped task's private variables on behind a stop-gradient,
            `"freeze"` leaves them as they are, so that no optimizer moves them.
        restore_best_weights: Boolean. Whether a task that is stopped gets its private variables of
            its best epoch back. What is shared goes on and keeps changing, so under `"freeze"`
            they meet other features than they were trained on.
        start_from_epoch: Integer >= 0. First epoch to watch.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is unknown or out of range, or a direction is not known.

    Example:

    >>> inputs = keras.Input((4,))
    >>> outputs = {"age": keras.layers.Dense(1)(inputs), "sex": keras.layers.Dense(1)(inputs)}
    >>> model = keras_mtl.MultiTaskModel(inputs, outputs)
    >>> model.compile(keras.optimizers.SGD(0.0), loss="mse")  # never better: stopped at once
    >>> stopping = keras_mtl.callbacks.TaskEarlyStopping("{task}_loss", patience=2, tasks=["age"])
    >>> x, y = np.ones((2, 4)), {"age": np.ones((2, 1)), "sex": np.ones((2, 1))}
    >>> history = model.fit(x, y, epochs=5, verbose=0, callbacks=[stopping])
    >>> stopping.stopped_epoch
    {"age": 2}
    >>> history.history["age_weight"]
    [1.0, 1.0, 1.0, 0.0, 0.0]
    """

    state_in_model = True

    def __init__(
        self,
        monitor: str = "val_{task}_loss",
        min_delta: float = 0.0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        *,
        tasks: Sequence[str] | None = None,
        head: str = "train",
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        super().__init__()
        checks.one_of("mode", mode, ["auto", "min", "max"])
        checks.one_of("head", head, list(HEADS))
        _check_monitor(monitor, tasks)
        self.monitor = monitor
        self.min_delta = abs(checks.finite_number("min_delta", min_delta))
        self.patience = checks.nonnegative_integer("patience", patience)
        self.verbose = verbose
        self.mode = mode
        self.tasks = None if tasks is None else list(tasks)
        self.head = head
        self.restore_best_weights = restore_best_weights
        self.start_from_epoch = checks.nonnegative_integer("start_from_epoch", start_from_epoch)
        self._monitors: dict[str, str] = {}
        self._signs: dict[str, float] = {}
        self._table: TaskTable | None = None
        self._started = self._warned = False

    @property
    def stopped_epoch(self) -> dict[str, int]:
        """The epoch at whose end each task was stopped; running tasks are left out."""
        return {task: int(epoch) - 1 for task, epoch in self._row("stopped_epoch").items() if epoch}

    @property
    def end_value(self) -> dict[str, float]:
        """The monitored value of each stopped task in that epoch."""
        values = self._row("end_value")
        return {task: values[task] for task in self.stopped_epoch}

    @property
    def best(self) -> dict[str, float]:
        """The best monitored value of each task so far."""
        values = self._row("best")
        return {task: values[task] for task in self.best_epoch}

    @property
    def best_epoch(self) -> dict[str, int]:
        """The epoch of the best value of each task so far."""
        return {task: int(epoch) - 1 for task, epoch in self._row("best_epoch").items() if epoch}

    def _row(self, name: str) -> dict[str, float]:
        return {} if self._table is None else self._table.row(name)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Checks tasks and directions before the first step."""
        del logs
        tasks = list(self.model.loss_weights) if self.tasks is None else self.tasks
        self.check_tasks("tasks", tasks)
        self._monitors = {task: self.monitor.replace("{task}", task) for task in tasks}
        self._signs = {task: self._sign(task, name) for task, name in self._monitors.items()}
        state, tasks = self.model._training_state, sorted(self._monitors)
        self._table = TaskTable(state, self._name("table"), ROWS, tasks)
        if self.head == "train":
            self.model.prepare_detached_heads()
        self._started = self._warned = False

    def _sign(self, task: str, name: str) -> float:
        """Returns 1.0 where higher is better, -1.0 where lower is."""
        if self.mode != "auto":
            return 1.0 if self.mode == "max" else -1.0
        known = {"loss": "down"}
        for book in self._logbooks():
            known |= {part.name: part._direction for part in book.metrics if part.knows_direction}
        plain = name.removeprefix("val_")
        if plain not in known:
            raise ValueError(
                f"`monitor` is '{name}' for task '{task}', of which it is not known whether lower "
                f"or higher is better. Expected one of {list(known)}, with or without 'val_'."
                f"{checks.suggestion(plain, known)} For a value of your own pass `mode='min'` or "
                "`mode='max'`, and for some tasks only `tasks=[...]`."
            )
        return 1.0 if known[plain] == "up" else -1.0

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Starts anew, unless this epoch follows the last one seen."""
        del logs
        if self._started:
            return
        self._started = True
        # Not before: a backup is restored when training begins.
        if epoch == 0 or any(seen != epoch for seen in self._row("seen").values()):
            for task in self.stopped_epoch:
                self.model.resume_task(task)
            self._table.clear()
        elif self._all_main_tasks_stopped():
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Stops tasks, and training where no main task is left."""
        logs = logs or {}
        for task, name in self._monitors.items():
            self._table.set(task, seen=epoch + 1)
            if name not in logs:
                self._warn(name, logs)
            elif epoch < self.start_from_epoch or not self._runs(task):
                continue
            elif self._was_measured(task, name, logs):
                self._judge(task, epoch, float(logs[name]))
        if self._all_main_tasks_stopped():
            self.model.stop_training = True
            if self.verbose > 0:
                io_utils.print_msg(f"Epoch {epoch + 1}: all main tasks have stopped.")

    def _was_measured(self, task: str, name: str, logs: Mapping[str, Any]) -> bool:
        """Whether a label of the task was there: without one the logs say 0, which is no value."""
        if logs[name] != 0:
            return True
        if not name.startswith("val_"):
            return logs.get(f"{task}_weight") != 0
        # What was measured last: validation ends an epoch.
        return all(bool(book.measured().get(task, True)) for book in self._logbooks())

    def _logbooks(self) -> list[LogBook]:
        return [metric for metric in self.model.metrics if isinstance(metric, LogBook)]

    def _runs(self, task: str) -> bool:
        """Whether `task` can be stopped: it is not, or only detached and to be frozen."""
        state = self._states()[task]
        return not state or (self.head == "freeze" and state == DETACHED)

    def _states(self) -> dict[str, float]:
        stopped = np.asarray(self.model._training_state.stopped).tolist()
        return dict(zip(self.model.loss_weights, stopped, strict=True))

    def _all_main_tasks_stopped(self) -> bool:
        states = self._states()
        main = [task for task in states if not self.model.tasks[task].auxiliary]
        return all(states[task] for task in main or states)

    def _judge(self, task: str, epoch: int, value: float) -> None:
        if task in self.stopped_epoch:  # somebody has resumed it
            self._table.set(task, stopped_epoch=0, wait=0)
        wait = self._row("wait")[task] + 1
        if self._is_better(task, value):
            self._table.set(task, best=value, best_epoch=epoch + 1, wait=0)
            for copy, variable in self._private(task):
                copy.assign(np.asarray(variable))
            return
        self._table.set(task, wait=wait)
        if wait >= self.patience and epoch > 0:
            self._stop(task, epoch, value)

    def _is_better(self, task: str, value: float) -> bool:
        if np.isnan(value):
            return False
        best = self.best.get(task)
        return best is None or self._signs[task] * (value - best) > self.min_delta

    def _stop(self, task: str, epoch: int, value: float) -> None:
        self.model.stop_task(task, head=self.head)
        self._table.set(task, stopped_epoch=epoch + 1, end_value=value)
        best = self.best_epoch.get(task)
        if best is not None:
            for copy, variable in self._private(task):
                variable.assign(np.asarray(copy))
        if self.verbose > 0:
            found = "" if best is None else f", best {self.best[task]:.5g} in epoch {best + 1}"
            io_utils.print_msg(
                f"\nEpoch {epoch + 1}: TaskEarlyStopping stopped '{task}': "
                f"{self._monitors[task]} ended at {value:.5g}{found}."
            )

    def _private(self, task: str) -> list[tuple[Any, Any]]:
        """Returns the task's private variables, each behind its kept copy, if they are needed."""
        if not self.restore_best_weights:
            return []
        state = self.model._training_state
        private = self.model._step.partition.private(self.model.weights, task)
        names = [self._name(f"{task} {index}") for index in range(len(private))]
        copies = [state.keep(n, v.shape, v.dtype) for n, v in zip(names, private, strict=True)]
        return list(zip(copies, private, strict=True))

    def _name(self, what: str) -> str:
        # Sorted, for a file is found again by a model whose tasks come in another order.
        parts = [type(self).__name__, self.monitor, self.head, *sorted(self._monitors), what]
        return " ".join(parts).replace("/", "|")

    def _warn(self, name: str, logs: Mapping[str, Any]) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"`monitor` '{name}' is not in the logs, so its task is not stopped. Expected one "
                f"of {list(logs)}.{checks.suggestion(name, logs)} Values that start with 'val_' "
                "need `validation_data` or `validation_split`.",
                stacklevel=2,
            )


def _check_monitor(monitor: Any, tasks: Any) -> None:
    if isinstance(tasks, str):
        raise TypeError(
            f"`tasks` must be a list of task names, received {checks.describe(tasks)}. Write "
            f"`tasks=['{tasks}']`."
        )
    if not isinstance(monitor, str):
        raise TypeError(f"`monitor` must be a string, received {checks.describe(monitor)}.")
    if "{task}" not in monitor and tasks is None:
        raise ValueError(
            "`monitor` must hold '{task}', which stands for each task's name, received "
            f"{checks.describe(monitor)}. To stop some tasks by one value pass `tasks=[...]`; to "
            "stop training by it use `keras.callbacks.EarlyStopping`."
        )
