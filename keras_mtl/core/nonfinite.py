"""What happens to a batch whose loss or gradient a step cannot use: NaN, infinite, negative."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mtl.core import negative, replicas, update
from keras_mtl.core.kept import floats
from keras_mtl.core.partition import Partition


class Guard:
    """Lets every batch pass: the default, as plain Keras."""

    def before(self) -> None:
        """Remembers what a bad batch must not change."""

    def inspect(self, losses: Any, present: Any, gradients: Sequence[Any]) -> Any:
        """Returns a boolean scalar, whether the batch counts, or `None` without a check."""

    def apply(self, counted: Any, apply: Any, gradients: list[Any]) -> None:
        """Applies the gradients."""
        del counted
        apply(gradients)

    def after(self, counted: Any) -> None:
        """Puts back what a bad batch has changed."""


# What the flags of `TrainingState.nonfinite` say of a task.
NONFINITE, NEGATIVE = 1.0, 2.0


class NonfiniteGuard(Guard):
    """Drops the update of a batch with a NaN or infinite loss or gradient, or a negative loss.

    Gradients are tested as well as losses: a NaN input can give a finite loss. Under dynamic loss
    scaling only losses are, because overflowing gradients are how the scale is found.

    Args:
        variables: List of the variables that gradients are for, in order.
        state: `TrainingState`; its flags tell which task it was.
        optimizer: The optimizer.
        partition: `Partition` of the model.
        others: List of variables that the forward pass or the methods change.
        policy: `"raise"`, `"skip"`, or `None` to let what is not finite pass.
        refuses_negative: Boolean. Whether the loss weighting is undefined for negative losses.
    """

    def __init__(
        self,
        variables: Sequence[Any],
        state: Any,
        optimizer: Any,
        partition: Partition,
        others: Sequence[Any],
        *,
        policy: str | None,
        refuses_negative: bool,
    ) -> None:
        self._state = state
        self._scales = update.scales_dynamically(optimizer)
        self._policy = policy
        self._refuses_negative = refuses_negative
        self._owners = [_owner(partition, variable) for variable in variables]
        self._others = list(others)
        self._before: list[Any] = []

    def before(self) -> None:
        self._before = [tf.identity(variable.value) for variable in self._others]

    def inspect(self, losses: Any, present: Any, gradients: Sequence[Any]) -> Any:
        flags = tf.concat([self._flags(losses, present), [0.0]], axis=0)
        if self._policy is not None and not self._scales:
            bad = replicas.total([self._bad_gradients(gradients, flags)])[0]
            flags = tf.where(bad > 0, tf.maximum(flags, NONFINITE), flags)
        # What is reported after the execution blocks the steps until then.
        reported = NONFINITE if self._policy == "raise" else NEGATIVE
        before = self._state.nonfinite.value
        flags = tf.maximum(flags, tf.where(before >= reported, before, 0.0))
        self._state.nonfinite.assign(flags)
        return tf.reduce_all(flags <= 0)

    def _flags(self, losses: Any, present: Any) -> Any:
        flags = tf.zeros_like(losses)
        if self._policy is not None:
            flags = tf.where(tf.math.is_finite(losses), flags, NONFINITE)
        if self._refuses_negative:
            flags = tf.where(losses < 0, NEGATIVE, flags)
        return tf.where(present > 0, flags, 0.0)

    def _bad_gradients(self, gradients: Sequence[Any], flags: Any) -> Any:
        bad: list[list[Any]] = [[] for _ in range(flags.shape[0])]
        for owner, gradient in zip(self._owners, gradients, strict=True):
            if gradient is not None:
                values = getattr(gradient, "values", gradient)
                bad[owner].append(tf.reduce_all(tf.math.is_finite(values)))
        finite = [tf.reduce_all(tf.stack(parts)) if parts else True for parts in bad]
        return 1.0 - tf.cast(tf.stack(finite), tf.float32)

    def apply(self, counted: Any, apply: Any, gradients: list[Any]) -> None:
        if not self._scales:
            update.apply_if(counted, apply, gradients)
        else:
            blocked = tf.where(counted, 0.0, float("nan"))
            # Loss scaling skips a gradient that is not finite, under any strategy.
            apply([None if g is None else g + tf.cast(blocked, g.dtype) for g in gradients])

    def after(self, counted: Any) -> None:
        keep = tf.logical_not(counted)
        update.put_back(self._others, self._before, [keep] * len(self._others))


def _owner(partition: Partition, variable: Any) -> int:
    reached = partition.tasks_of_variable(variable)
    alone = len(reached) == 1
    return partition.tasks.index(reached[0]) if alone else len(partition.tasks)


def guard_for(
    model: Any,
    variables: Sequence[Any],
    state: Any,
    partition: Partition,
    *,
    policy: str | None,
    refuses_negative: bool,
) -> Guard:
    """Returns the guard of a step; one that lets every batch pass where nothing is refused.

    Args:
        model: The functional model, with its optimizer.
        variables: List of the variables that gradients are for, in order.
        state: `TrainingState`, with the loss weighting and the balancing.
        partition: `Partition` of the model.
        policy: As for `NonfiniteGuard`.
        refuses_negative: As for `NonfiniteGuard`.
    """
    if policy is None and not refuses_negative:
        return Guard()
    others = list(model.non_trainable_variables)
    for method in (state.loss_weighting, state.gradient_balancing):
        others += [] if method is None else method.non_trainable_variables
    return NonfiniteGuard(
        variables,
        state,
        model.optimizer,
        partition,
        floats(others),
        policy=policy,
        refuses_negative=refuses_negative,
    )


def report(state: Any, tasks: Sequence[str], policy: str | None) -> None:
    """Raises for what the steps since the last report have flagged, and takes the flags down.

    Assertions in the step would vanish under XLA.

    Raises:
        ValueError: If a loss was negative that must not be.
        FloatingPointError: If a loss or gradient was not finite, under the policy `"raise"`.
    """
    flags = np.asarray(state.nonfinite)
    if not flags.any():
        return
    negative_tasks = [t for t, flag in zip(tasks, flags, strict=False) if flag >= NEGATIVE]
    if negative_tasks or policy == "raise":
        state.nonfinite.assign(np.zeros_like(flags))
    if negative_tasks:
        method = type(state.loss_weighting).__name__
        raise ValueError(negative.describe(method, f"of task '{negative_tasks[0]}'"))
    if policy == "raise":
        raise FloatingPointError(describe(tasks, flags))


def describe(tasks: Sequence[str], flags: Sequence[float]) -> str:
    """Returns the error for the flags of `TrainingState.nonfinite`."""
    named = [task for task, flag in zip(tasks, flags, strict=False) if flag > 0]
    if named:
        what = f"The loss or a gradient of task{'s' if len(named) > 1 else ''} {named}"
    else:
        what = f"A gradient of the variables shared by tasks {list(tasks)}"
    return (
        f"{what} is NaN or infinite; the update was not applied. Look for NaN in the inputs and "
        'labels, lower the learning rate, or drop such updates with `on_nonfinite="skip"`.'
    )
