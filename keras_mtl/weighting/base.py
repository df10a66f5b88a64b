"""The contract of loss weighting: task losses in, a scalar total out."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import keras
from keras import ops

from keras_mtl.core import negative
from keras_mtl.core.derivatives import value_and_gradient
from keras_mtl.core.method import Method


@keras.saving.register_keras_serializable(package="keras_mtl")
class LossWeighting(Method):
    """Base class of loss weightings: maps task losses to the total that is differentiated.

    The derivative of the total with respect to each loss is that task's weight. A subclass
    writes `call(task_losses, active)`; `active` is 1.0 for tasks that take part and 0.0 for
    absent ones, whose losses read 1.0 (safe under logarithms) and must not reach the total:
    multiply by `active`, and count tasks with `sum(active)`.

    What else a method may need is a hook with an empty default: variables in `build` through
    `add_task_variable`, the state of a step in `update_state`, epochs in `on_epoch_begin`, the
    tasks' roles in `self.roles`. A method that is undefined for negative losses sets
    `takes_negative_losses = False`: such a loss stops with the task's name, also inside `fit`.
    One that learns from what a step has done to the losses sets `needs_fresh_losses` and writes
    `update_from_fresh_losses`; one that learns from how its weights change the main tasks' losses
    names its `hypergradient`, with its options, and writes `update_from_hypergradient`; one that
    can do nothing without auxiliary tasks says so in `needs_auxiliary_tasks`; one that leaves the
    weights to the user says `chooses = False`.

    Args:
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks,)`, mean losses, unscaled.
    Output shape: `()`, the total.
    """

    chooses = True
    takes_negative_losses = True
    needs_fresh_losses = False
    hypergradient: str | None = None
    hypergradient_options: Mapping[str, Any] = MappingProxyType({})
    needs_auxiliary_tasks = False

    def __call__(self, task_losses: Any, active: Any = None) -> Any:
        task_losses, active = self._standardize(task_losses, active)
        # The derivative of `where` leaves the weight of an absent task exactly 0.
        return super().__call__(ops.where(active > 0, task_losses, 1.0), active)

    def _standardize(self, task_losses: Any, active: Any) -> tuple[Any, Any]:
        task_losses = ops.convert_to_tensor(task_losses, dtype="float32")
        if len(task_losses.shape) != 1 or task_losses.shape[0] == 0:
            raise ValueError(
                "`task_losses` must have shape (num_tasks,), received shape "
                f"{tuple(task_losses.shape)}. Give one mean loss a task."
            )
        self.check_num_tasks("entries of `task_losses`", task_losses.shape[0])
        self.build_for(task_losses.shape[0])
        active = ops.ones_like(task_losses) if active is None else ops.cast(active, "float32")
        if not self.takes_negative_losses:
            tasks = [role.name for role in self.roles or ()]
            task_losses = negative.without_rounding(task_losses)
            negative.check(type(self).__name__, task_losses, active, tasks)
        return task_losses, active

    def call(self, task_losses: Any, active: Any) -> Any:
        raise NotImplementedError(
            f"{type(self).__name__} must define `call(task_losses, active)` and return the total."
        )

    def compute_weights(self, task_losses: Any, active: Any = None) -> Any:
        """Returns the effective task weights: the derivative of the total.

        Args:
            task_losses: Array of shape `(num_tasks,)`, mean losses.
            active: Optional boolean array of shape `(num_tasks,)`; `False` for absent tasks.

        Returns:
            A tensor of shape `(num_tasks,)`.
        """
        losses, active = self._standardize(task_losses, active)
        return value_and_gradient(lambda point: self(point, active), losses)[1]

    def update_state(self, task_losses: Any, active: Any) -> None:
        """Hook: moves per-step state; called in the graph after the total, once a step.

        Args:
            task_losses: Tensor of shape `(num_tasks,)`, the step's global mean losses.
            active: Float tensor of shape `(num_tasks,)`, 1.0 for tasks present in the step.
        """

    def update_from_fresh_losses(self, task_losses: Any, fresh_losses: Any, active: Any) -> None:
        """Hook: learns from the step; called after it where `needs_fresh_losses` is true.

        Called in the graph and only where the update was applied: not where a loss scale
        overflowed or a bad batch was dropped.

        Args:
            task_losses: Tensor of shape `(num_tasks,)`, the step's losses before the update.
            fresh_losses: Tensor of shape `(num_tasks,)`, the losses on the same batch after it,
                with the same dropout masks and with batch statistics that do not move.
            active: Float tensor of shape `(num_tasks,)`, 1.0 for tasks present in the step.
        """

    def hypergradient_due(self) -> Any:
        """Hook: whether the step shall have a hypergradient, a boolean scalar; `None` if each."""
        return None

    def update_from_hypergradient(self, gradient: Any, active: Any) -> None:
        """Hook: learns the weights; called before the step where `hypergradient` is set.

        Called in the graph, where a main task is present. The batch is split by every other row:
        the model learns from one half, virtually, and the other half tells what became of the
        main tasks.

        Args:
            gradient: Tensor of shape `(num_tasks,)`, the derivative of the sum of the main
                tasks' losses on the second half with respect to the task weights used on the first.
            active: Float tensor of shape `(num_tasks,)`, 1.0 for tasks present in the first half.
        """
