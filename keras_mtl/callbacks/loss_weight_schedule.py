"""Loss weights that follow a schedule."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras.src.utils import io_utils

from keras_mtl.callbacks.base import TaskCallback
from keras_mtl.core import checks

LearningRateSchedule = keras.optimizers.schedules.LearningRateSchedule


class LossWeightSchedule(TaskCallback):
    """Sets the user's constants `model.loss_weights` on a schedule.

    A function is called before every epoch with the epoch, counted from 0; a Keras learning-rate
    schedule before every step with `optimizer.iterations`, the updates so far. What they return
    replaces the constant of the task, which multiplies what a loss weighting chooses. Nothing is
    traced again. A run that is resumed, by `BackupAndRestore` or at `initial_epoch`, gets the
    weights of an unbroken one.

    Args:
        schedules: Dict from task to a function of the epoch or a `LearningRateSchedule`. The
            constants of other tasks stay as they are.
        verbose: Integer. 1 prints the weights at the beginning of every epoch, 0 nothing.

    `val_loss` is a sum with these constants, so it moves with them: monitor `val_<task>_loss` or
    `val_delta_m` in callbacks that compare epochs.

    A `LearningRateSchedule` is computed outside the step's graph, which costs about a millisecond,
    and under `steps_per_execution` once an execution.

    Raises:
        TypeError: If `schedules` is no dict, or holds something that is no schedule.
        ValueError: If a task is unknown, or a schedule returns a number < 0 or not finite.

    Example:

    >>> inputs = keras.Input((4,))
    >>> outputs = {"age": keras.layers.Dense(1)(inputs), "sex": keras.layers.Dense(1)(inputs)}
    >>> model = keras_mtl.MultiTaskModel(inputs, outputs)
    >>> model.compile("sgd", loss="mse")
    >>> schedule = keras_mtl.callbacks.LossWeightSchedule({"sex": lambda epoch: 0.5**epoch})
    >>> x, y = np.ones((2, 4)), {"age": np.ones((2, 1)), "sex": np.ones((2, 1))}
    >>> history = model.fit(x, y, epochs=3, verbose=0, callbacks=[schedule])
    >>> history.history["sex_weight"]
    [1.0, 0.5, 0.25]
    """

    def __init__(
        self,
        schedules: Mapping[str, Callable[[int], float] | LearningRateSchedule],
        verbose: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(schedules, Mapping):
            raise TypeError(
                "`schedules` must be a dict from task to schedule, received "
                f"{checks.describe(schedules)}. Write `LossWeightSchedule({{'task': ...}})`."
            )
        for task, schedule in schedules.items():
            _check_schedule(task, schedule)
        self.schedules = dict(schedules)
        self.verbose = verbose
        self._by_step = [
            task for task, given in schedules.items() if isinstance(given, LearningRateSchedule)
        ]
        self._by_epoch = [task for task in schedules if task not in self._by_step]
        self._epoch = 0

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Checks the tasks before the first step."""
        del logs
        self.check_tasks("schedules", self.schedules)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Sets the weights for the epoch and, by step, for its first step."""
        del logs
        self._epoch = epoch
        self._set(self._by_epoch, epoch, f"epoch={epoch}")
        self._set_by_step()
        if self.verbose > 0:
            for task in self.schedules:
                io_utils.print_msg(
                    f"\nEpoch {epoch + 1}: LossWeightSchedule setting loss weight of '{task}' to "
                    f"{self.model.loss_weights[task]}."
                )

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Sets the weights that go by the step."""
        del batch, logs
        self._set_by_step()

    def _set_by_step(self) -> None:
        if self._by_step:
            step = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
            self._set(self._by_step, step, f"step={step}, in epoch {self._epoch}")

    def _set(self, tasks: list[str], position: int, where: str) -> None:
        self.model.loss_weights = {
            task: self._checked(f"schedules['{task}']({where})", self.schedules[task](position))
            for task in tasks
        }

    @staticmethod
    def _checked(argument: str, value: Any) -> float:
        # As a number, an error shows it better than as a tensor.
        value = float(value) if keras.ops.is_tensor(value) else value
        return checks.loss_weight(argument, value)


def _check_schedule(task: str, schedule: Any) -> None:
    if isinstance(schedule, type):
        received = f"the class {schedule.__name__} itself"
        advice = f"Make one of it: `{schedule.__name__}(...)`."
    elif not callable(schedule):
        received = checks.describe(schedule)
        advice = f"Set a constant with `compile(loss_weights={{'{task}': ...}})`."
    else:
        return
    raise TypeError(
        f"`schedules['{task}']` must be a function of the epoch or a Keras LearningRateSchedule, "
        f"received {received}. {advice}"
    )
