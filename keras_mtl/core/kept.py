"""What a training step must leave as it was: of stopped tasks, of absent ones, of bad losses."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_mtl.core import replicas, update
from keras_mtl.core.partition import Partition

# What `TrainingState.stopped` says of a stopped task's head.
FROZEN, DETACHED = 1.0, 2.0
HEADS = {"freeze": FROZEN, "train": DETACHED}


class Kept:
    """Remembers variables before a step and puts them back after it, where their task is out.

    A zero gradient still moves what has momentum, and a forward pass moves running means: the
    private variables of a stopped task are put back. So are the entries of an idle task, one
    that is absent or has a loss that is not finite, in the loss weighting's variables.

    Args:
        partition: `Partition` of the model.
        variables: List of the model's variables, trainable and float statistics.
        weighting: The loss weighting.
    """

    def __init__(self, partition: Partition, variables: Sequence[Any], weighting: Any) -> None:
        self._private: list[Any] = []
        self._tasks: list[int] = []
        for index, task in enumerate(partition.tasks):
            own = partition.private(variables, task)
            self._private += own
            self._tasks += [index] * len(own)
        self._by_task = weighting.task_variables

    def before(self) -> list[Any]:
        """Returns the values to put back."""
        return [tf.identity(variable.value) for variable in [*self._private, *self._by_task]]

    def put_back(self, before: Sequence[Any], stopped: Any, idle: Any) -> None:
        """Puts back what must not have moved.

        Args:
            before: What `before` returned.
            stopped: Boolean tensor `(num_tasks,)`: tasks whose private variables stay.
            idle: Boolean tensor `(num_tasks,)`: tasks whose entries in the weighting stay.
        """
        someone = tf.reduce_any(tf.logical_or(stopped, idle) if self._by_task else stopped)
        _only_if(someone, lambda: self._put_back(before, stopped, idle))

    def _put_back(self, before: Sequence[Any], stopped: Any, idle: Any) -> None:
        flags = tf.unstack(stopped)
        keep = [*(flags[task] for task in self._tasks), *([idle] * len(self._by_task))]
        update.put_back([*self._private, *self._by_task], before, keep)


def _only_if(condition: Any, action: Callable[[], None]) -> None:
    # Mostly no task is out, and there is nothing to copy.
    if not replicas.without_strategy():
        action()
    elif tf.executing_eagerly():
        tf.cond(condition, action, lambda: None)
    else:
        _call_if(condition, tf.function(action, autograph=False).get_concrete_function())


def _call_if(condition: Any, action: Any) -> None:
    # `tf.cond` becomes a switch for each tensor it uses, and one switch makes the runtime take the
    # slower executor for the whole step. As an operation of its own it costs next to nothing.
    inputs = action.captured_inputs
    like = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in inputs]
    nothing = tf.function(_nothing, autograph=False).get_concrete_function(*like)
    tf.raw_ops.If(cond=condition, input=inputs, Tout=[], then_branch=action, else_branch=nothing)


def _nothing(*inputs: Any) -> None:
    del inputs


def floats(variables: Sequence[Any]) -> list[Any]:
    """Returns those of some Keras variables that hold fractions, such as statistics."""
    return [variable for variable in variables if variable.dtype.startswith("float")]
