"""The backward passes of a step: one for the sum, or one a task, balanced."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any

import tensorflow as tf

from keras_mtl.core import replicas, update
from keras_mtl.core.partition import Partition, Taps


class SummedPass:
    """One backward pass over the weighted sum of the losses.

    Used as a context around the forward pass, then asked once for the gradients. Losses come as
    local sums and the factor each is differentiated with, so that nothing but sums of this
    replica is recorded.

    Args:
        variables: List of Keras variables, the order of the gradients.
        partition: `Partition` of the model.
        balancing: Gradient balancing, or `None`.
        detachable: Boolean. Whether tasks that are not active may still train their heads.
    """

    persistent = False

    def __init__(
        self,
        variables: Sequence[Any],
        partition: Partition,
        balancing: Any,
        detachable: bool = False,
    ) -> None:
        self.variables = list(variables)
        self.partition = partition
        self.balancing = balancing
        self.detachable = detachable
        self.tape = tf.GradientTape(persistent=self.persistent)

    def __enter__(self) -> "SummedPass":
        self.tape.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.tape.__exit__(*error)

    def gradients(
        self, totals: Sequence[Any], factors: Any, extra: Any, active: Any, scale: Any
    ) -> list[Any]:
        """Returns this replica's gradients, times the loss scale; their sum is the step's.

        Args:
            totals: List of scalars, each task's local sum of losses.
            factors: Tensor `(num_tasks,)`: effective weight over global count.
            extra: Scalar of regularisation and `add_loss` terms over replicas, or `None`.
            active: Float tensor `(num_tasks,)`, 1.0 for tasks that take part.
            scale: Float scalar, the loss scale.

        Returns:
            A list of gradients in the order of the variables; `None` where nothing reaches.
        """
        del active
        targets = [*totals, *_given(extra)]
        seeds = [*tf.unstack(factors * scale), *([scale] if extra is not None else [])]
        return self.tape.gradient(targets, self.variables, output_gradients=seeds)

    def _matrix(self, gradients: Sequence[Any], like: Any, active: Any, scale: Any) -> Any:
        """Stacks one gradient a task into `(num_tasks, size)`, in float32, without loss scale."""
        like = getattr(like, "value", like)
        rows = [
            tf.zeros([tf.size(like)], tf.float32)
            if gradient is None
            else tf.cast(tf.reshape(tf.convert_to_tensor(gradient), [-1]), tf.float32)
            for gradient in gradients
        ]
        matrix = tf.stack(rows) / scale
        # The rows of absent tasks are 0 by their factor, those of detached ones are not.
        return tf.where(active[:, None] > 0, matrix, 0.0) if self.detachable else matrix

    def _private(self) -> list[list[Any]]:
        return [self.partition.private(self.variables, task) for task in self.partition.tasks]


class ParametersPass(SummedPass):
    """One backward pass a task; the gradients of the shared variables are balanced."""

    persistent = True

    def gradients(
        self, totals: Sequence[Any], factors: Any, extra: Any, active: Any, scale: Any
    ) -> list[Any]:
        shared = self.partition.shared(self.variables)
        collected = _Sum(self.variables)
        rows = []
        for total, factor, private in zip(
            totals, tf.unstack(factors * scale), self._private(), strict=True
        ):
            found = self.tape.gradient(total, shared + private, output_gradients=factor)
            rows.append(found[: len(shared)])
            collected.add(private, found[len(shared) :])
        collected.add(shared, self._balance(shared, rows, active, scale))
        if extra is not None:
            found = self.tape.gradient(extra, self.variables, output_gradients=scale)
            collected.add(self.variables, found)
        return collected.gradients

    def _balance(
        self, shared: Sequence[Any], rows: Sequence[Sequence[Any]], active: Any, scale: Any
    ) -> list[Any]:
        parts = [
            self._matrix([row[index] for row in rows], variable, active, scale)
            for index, variable in enumerate(shared)
        ]
        # The gradients are summed over replicas, not their Gramians: these do not add up.
        parts = replicas.total(parts)
        directions = _combine(self.balancing, parts, _gramian(parts), active)
        # Every replica has the whole direction, and the optimizer will add them up.
        factor = scale / replicas.count()
        return [
            tf.cast(tf.reshape(direction * factor, variable.shape), variable.dtype)
            for direction, variable in zip(directions, shared, strict=True)
        ]


class FeaturesPass(SummedPass):
    """One backward pass a task down to the cut, balanced there, and one through the trunk."""

    def __init__(
        self,
        variables: Sequence[Any],
        partition: Partition,
        balancing: Any,
        detachable: bool = False,
    ) -> None:
        # Branches inside a nested trunk are private, but lie above the cut: they take passes of
        # the outer tape.
        self._above = [partition.private_above_cuts(variables, task) for task in partition.tasks]
        self.persistent = any(self._above)
        super().__init__(variables, partition, balancing, detachable)
        self.taps = Taps(partition)

    def __enter__(self) -> "FeaturesPass":
        self.tape.__enter__()
        self.taps.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.taps.__exit__(*error)
        self.tape.__exit__(*error)

    def gradients(
        self, totals: Sequence[Any], factors: Any, extra: Any, active: Any, scale: Any
    ) -> list[Any]:
        taps, collected, rows = self.taps.taps, _Sum(self.variables), []
        reused = self.partition.shared_read_alone(self.variables)
        for index, (total, factor, private) in enumerate(
            zip(totals, tf.unstack(factors * scale), self._private_below(), strict=True)
        ):
            sources = [*taps, *(variable.value for variable in private + reused)]
            found = self.taps.tape.gradient(total, sources, output_gradients=factor)
            rows.append(found[: len(taps)])
            own = found[len(taps) :]
            collected.add(private, own[: len(private)])
            collected.add(reused, self._attached(own[len(private) :], active[index]))
        self._add_private_above(collected, totals, factors * scale, extra, scale)
        targets = [*self.taps.cuts, *_given(extra)]
        seeds = [*self._balance(rows, active, scale), *([scale] if extra is not None else [])]
        trunk = _without(self.variables, list(chain.from_iterable(self._above)))
        collected.add(trunk, self.tape.gradient(targets, trunk, output_gradients=seeds))
        return collected.gradients

    def _attached(self, gradients: Sequence[Any], active: Any) -> list[Any]:
        """Returns the gradients of shared variables, none of a task that is not active."""
        if not self.detachable:
            return list(gradients)
        return [
            None if part is None else tf.where(active > 0, tf.convert_to_tensor(part), 0)
            for part in gradients
        ]

    def _private_below(self) -> list[list[Any]]:
        return [
            _without(private, above)
            for private, above in zip(self._private(), self._above, strict=True)
        ]

    def _add_private_above(
        self, collected: "_Sum", totals: Sequence[Any], factors: Any, extra: Any, scale: Any
    ) -> None:
        for total, factor, above in zip(totals, tf.unstack(factors), self._above, strict=True):
            if not above:
                continue
            collected.add(above, self.tape.gradient(total, above, output_gradients=factor))
            if extra is not None:
                collected.add(above, self.tape.gradient(extra, above, output_gradients=scale))

    def _balance(self, rows: Sequence[Sequence[Any]], active: Any, scale: Any) -> list[Any]:
        taps = self.taps.taps
        parts = [
            self._matrix([row[index] for row in rows], tap, active, scale)
            for index, tap in enumerate(taps)
        ]
        # Each replica holds the features of its own examples: here the Gramians do add up.
        gramian = replicas.total([_gramian(parts)])[0]
        directions = _combine(self.balancing, parts, gramian, active)
        return [
            tf.cast(tf.reshape(direction * scale, tf.shape(tap)), tap.dtype)
            for direction, tap in zip(directions, taps, strict=True)
        ]


class SummedRows:
    """Adds up the gradients of the active tasks: no balancing, where tasks must be told apart."""

    task_variables: tuple[Any, ...] = ()
    non_trainable_variables: tuple[Any, ...] = ()

    def combine(self, gradients: Sequence[Any], gramian: Any, active: Any) -> list[Any]:
        """Returns the sum of the rows of each part."""
        del gramian
        return [tf.tensordot(active, part, axes=1) for part in gradients]


def pass_for(
    balancing: Any, partition: Partition, variables: Sequence[Any], *, detachable: bool
) -> Callable[[], SummedPass]:
    """Returns a function that makes the backward pass of a step.

    Args:
        balancing: Gradient balancing, or `None`.
        partition: `Partition` of the model.
        variables: List of Keras variables, the order of the gradients.
        detachable: Boolean. Whether some tasks may train their heads alone.
    """
    scope = "none" if balancing is None else balancing.scope
    if not partition.shared(variables):
        kind = SummedPass
    elif balancing is None and detachable:
        # Nothing shared must hear of a detached task: the gradients are taken task by task.
        balancing = SummedRows()
        kind = FeaturesPass if partition.cuts else ParametersPass
    else:
        kind = {"none": SummedPass, "parameters": ParametersPass}.get(scope, FeaturesPass)
        kind = kind if partition.cuts or scope != "features" else SummedPass
    return partial(kind, variables, partition, balancing, detachable)


class _Sum:
    """Adds up gradients of variables, from passes that reach some of them each."""

    def __init__(self, variables: Sequence[Any]) -> None:
        self.gradients: list[Any] = [None] * len(variables)
        self._index = {id(variable): index for index, variable in enumerate(variables)}

    def add(self, variables: Sequence[Any], gradients: Sequence[Any]) -> None:
        """Adds `gradients`, `None` for nothing, to those of `variables`."""
        for variable, gradient in zip(variables, gradients, strict=True):
            index = self._index[id(variable)]
            self.gradients[index] = _add(self.gradients[index], gradient)


def _without(variables: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    left_out = {id(variable) for variable in others}
    return [variable for variable in variables if id(variable) not in left_out]


def _add(first: Any, second: Any) -> Any:
    if first is None or second is None:
        return second if first is None else first
    return tf.convert_to_tensor(first) + tf.convert_to_tensor(second)


def _given(value: Any) -> list[Any]:
    return [] if value is None else [value]


def _gramian(parts: Sequence[Any]) -> Any:
    return tf.add_n([tf.matmul(part, part, transpose_b=True) for part in parts])


def _combine(balancing: Any, parts: Sequence[Any], gramian: Any, active: Any) -> list[Any]:
    # A method is finite whatever it gets; an overflow must still be seen by the loss scaling.
    finite = tf.reduce_all(tf.math.is_finite(gramian))
    blocked = tf.where(finite, 0.0, float("nan"))
    state = [v for v in balancing.non_trainable_variables if v.dtype.startswith("float")]
    before = [tf.identity(variable.value) for variable in state]
    directions = balancing.combine(parts, gramian, active)
    # An overflow drops the update, and must leave no trace in the state either.
    by_task = {id(variable) for variable in balancing.task_variables}
    absent = tf.logical_or(active <= 0, tf.logical_not(finite))
    keep = [absent if id(v) in by_task else tf.logical_not(finite) for v in state]
    update.put_back(state, before, keep)
    return [direction + blocked for direction in directions]
