"""One backward pass over the weighted sum of the losses, and what all passes share."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_mtl.core import replicas
from keras_mtl.core.partition import Partition
from keras_mtl.core.terms import Terms


class SummedPass:
    """One backward pass over the weighted sum of the losses.

    Used as a context around the forward pass, then asked once for the gradients.

    Args:
        variables: List of Keras variables, the order of the gradients.
        partition: `Partition` of the model.
        balancing: Gradient balancing, or `None`.
        detachable: Boolean. Whether tasks that are not active may still train their heads.
        compiled: Boolean. Whether the step is compiled by XLA.
    """

    persistent = False

    def __init__(
        self,
        variables: Sequence[Any],
        partition: Partition,
        balancing: Any,
        detachable: bool = False,
        compiled: bool = False,
    ) -> None:
        self.variables = list(variables)
        self.partition = partition
        self.balancing = balancing
        self.detachable = detachable
        self.compiled = compiled
        self.tape = tf.GradientTape(persistent=self.persistent)

    def __enter__(self) -> "SummedPass":
        self.tape.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.tape.__exit__(*error)

    def gradients(self, terms: Terms) -> list[Any]:
        """Returns this replica's gradients, times the loss scale; their sum is the step's.

        Args:
            terms: `Terms`, the losses to differentiate.

        Returns:
            A list of gradients in the order of the variables; `None` where nothing reaches.
        """
        targets = [*terms.totals, *given(terms.extra)]
        seeds = [*terms.seeds, *([terms.scale] if terms.extra is not None else [])]
        return self.tape.gradient(targets, self.variables, output_gradients=seeds)

    def matrix(self, gradients: Sequence[Any], like: Any, terms: Terms) -> Any:
        """Stacks one gradient a task into `(num_tasks, size)`, in float32, without loss scale."""
        rows = [self.row_of(index, part, like, terms) for index, part in enumerate(gradients)]
        return tf.stack(rows)

    def row_of(self, index: int, gradient: Any, like: Any, terms: Terms) -> Any:
        """Returns what `row` does, and 0 where the task of that index is not active."""
        row = self.row(gradient, like, terms)
        if not self.detachable:
            return row
        # The rows of absent tasks are 0 by their factor, those of detached ones are not.
        return tf.where(terms.active[index] > 0, row, 0.0)

    def attached(self, gradients: Sequence[Any], active: Any) -> list[Any]:
        """Returns one task's gradients of what is shared: none where it is not active."""
        if not self.detachable:
            return list(gradients)
        return [
            None if part is None else tf.where(active > 0, tf.convert_to_tensor(part), 0)
            for part in gradients
        ]

    def row(self, gradient: Any, like: Any, terms: Terms) -> Any:
        """Returns one gradient as `(size,)`, in float32, without loss scale."""
        if gradient is None:
            return tf.zeros([tf.size(getattr(like, "value", like))], tf.float32)
        flat = tf.reshape(tf.convert_to_tensor(gradient), [-1])
        return tf.cast(flat, tf.float32) / terms.scale

    def add_read_alone(self, collected: "Collected", terms: Terms, factors: Sequence[Any]) -> None:
        """Hook: adds, times a factor a task, what is summed of shared variables, not balanced."""

    def private(self) -> list[list[Any]]:
        """Returns the variables that each task alone reaches."""
        return [self.partition.private(self.variables, task) for task in self.partition.tasks]


class Collected:
    """Adds up gradients of variables, from passes that reach some of them each."""

    def __init__(self, variables: Sequence[Any]) -> None:
        self.gradients: list[Any] = [None] * len(variables)
        self._index = {id(variable): index for index, variable in enumerate(variables)}

    def add(self, variables: Sequence[Any], gradients: Sequence[Any], factor: Any = None) -> None:
        """Adds `gradients`, `None` for nothing, times `factor` to those of `variables`."""
        for variable, gradient in zip(variables, gradients, strict=True):
            index = self._index[id(variable)]
            self.gradients[index] = _add(self.gradients[index], _times(gradient, factor))


def without(variables: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    """Returns those of `variables` that are not among `others`."""
    left_out = {id(variable) for variable in others}
    return [variable for variable in variables if id(variable) not in left_out]


def given(value: Any) -> list[Any]:
    """Returns a list of `value`, or an empty one for `None`."""
    return [] if value is None else [value]


def head_factors(heads: Any, terms: Terms) -> list[Any]:
    """Returns what each task's private gradients are multiplied by, `None` for nothing."""
    if heads is None:
        return [None] * len(terms.totals)
    # A head that trains on while its task is stopped does so with its constant alone.
    return tf.unstack(tf.where(terms.active > 0, tf.cast(heads, tf.float32), 1.0))


def either(
    passed: SummedPass,
    terms: Terms,
    condition: Any,
    first: Callable[[], list[Any]],
    second: Callable[[], list[Any]],
) -> list[Any]:
    """Returns the gradients that one of two functions finds, chosen in the graph.

    Args:
        passed: The backward pass, with a persistent tape.
        terms: What it differentiates.
        condition: Boolean scalar, the same on every replica.
        first: Function that returns the gradients if it holds.
        second: Function that returns them if not.
    """
    # Made once, so that both branches leave out the same variables.
    reached = [
        bool(passed.partition.tasks_of_variable(variable)) or terms.extra is not None
        for variable in passed.variables
    ]

    def dense(gradients: Sequence[Any]) -> list[Any]:
        return [
            tf.zeros_like(variable.value) if gradient is None else tf.convert_to_tensor(gradient)
            for gradient, variable, there in zip(gradients, passed.variables, reached, strict=True)
            if there
        ]

    flat = iter(replicas.choose(condition, lambda: dense(first()), lambda: dense(second())))
    return [next(flat) if there else None for there in reached]


def _times(gradient: Any, factor: Any) -> Any:
    if gradient is None or factor is None:
        return gradient
    if isinstance(gradient, tf.IndexedSlices):
        values = gradient.values * tf.cast(factor, gradient.dtype)
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return gradient * tf.cast(factor, gradient.dtype)


def _add(first: Any, second: Any) -> Any:
    if first is None or second is None:
        return second if first is None else first
    return tf.convert_to_tensor(first) + tf.convert_to_tensor(second)
