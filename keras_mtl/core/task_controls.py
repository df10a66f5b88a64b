"""What may be changed of a compiled model while it trains: constants, and which tasks train."""

from collections.abc import Mapping

import keras

from keras_mtl.core import checks
from keras_mtl.core.conflicts import ConflictWatch
from keras_mtl.core.kept import HEADS
from keras_mtl.core.state import TaskValues, TrainingState


class TaskControls(keras.Model):
    """A model whose tasks can be weighted, stopped and resumed during `fit`."""

    @property
    def loss_weights(self) -> TaskValues:
        """The user's constants: a live mapping, saved with the model; set to change them.

        `load_weights` restores those of the run that has written the file, as resuming needs, over
        those of `compile`: call `compile` again, or set them, to start with new ones.
        """
        state = self._state()
        return TaskValues("loss_weights", list(self._plans), state.constants)

    @loss_weights.setter
    def loss_weights(self, values: Mapping[str, float]) -> None:
        mapping = self.loss_weights
        checks.task_keys("loss_weights", values, list(mapping), partial=True)
        checked = {
            task: checks.loss_weight(f"loss_weights['{task}']", value)
            for task, value in values.items()
        }
        mapping.update(checked)

    @property
    def task_weights(self) -> TaskValues:
        """The effective weights of the last step, read-only: derivative of the total times c."""
        state = self._state()
        return TaskValues("task_weights", list(self._plans), state.effective, read_only=True)

    def stop_task(self, task: str, *, head: str = "freeze") -> None:
        """Stops training `task`: from now on it is absent, for the trunk and for the methods.

        That is saved with the model, and `load_weights` restores which tasks were stopped: resume
        them, or call `compile` again, to train them all.

        Args:
            task: String. The task's name.
            head: `"freeze"` leaves its private variables as they are; `"train"` trains them on,
                with its constant loss weight, behind a stop-gradient. The first time that costs
                a trace, unless `prepare_detached_heads` was called before.
        """
        checks.one_of("head", head, list(HEADS))
        if head == "train":
            self.prepare_detached_heads()
        self._stopped()[task] = HEADS[head]

    def prepare_detached_heads(self) -> None:
        """Makes the next step one in which `stop_task(..., head="train")` needs no new trace."""
        balancing = self._state().gradient_balancing
        if balancing is not None and balancing.needs_one_task:
            raise ValueError(
                f"`head` must be 'freeze' with `gradient_balancing` '{balancing.name}', received "
                "'train': it takes the gradients of one task a step, never those of a stopped one."
            )
        if not self._step.detachable:
            self._step.let_heads_train_alone(True)
            if self.train_function is not None:
                self.make_train_function(force=True)

    def watch_gradients(self, every: int) -> ConflictWatch:
        """Measures from now on how the task gradients stand to one another.

        The first time, and when `every` changes, that costs a trace.

        Args:
            every: Integer. Steps from one measurement to the next.

        Returns:
            The `ConflictWatch`, enabled, which tells and can be disabled.

        Raises:
            ValueError: If two tasks share no trainable variable.
        """
        state, step = self._state(), self._step
        if not step.partition.shared(step.model_variables):
            raise ValueError(
                f"The tasks {list(self._plans)} share no trainable variable, so their gradients "
                "cannot be compared. Watch a model with a shared trunk that is trainable."
            )
        if step.watch is None or step.watch.every != every:
            with self.distribute_strategy.scope():
                step.watch_with(ConflictWatch(state, list(self._plans), every))
            if self.train_function is not None:
                self.make_train_function(force=True)
        step.watch.enable(True)
        return step.watch

    def resume_task(self, task: str) -> None:
        """Resumes training a stopped `task`."""
        self._stopped()[task] = 0.0

    def _stopped(self) -> TaskValues:
        state = self._state()
        return TaskValues("task", list(self._plans), state.stopped)

    def _state(self) -> TrainingState:
        if not self.compiled:
            raise RuntimeError(
                "`compile` must be called first: before it the model has no weights a task."
            )
        return self._training_state
