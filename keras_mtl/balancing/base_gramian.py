"""Balancings whose direction is a weighted sum of the task gradients."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_mtl.balancing.base import GradientBalancing, as_floats
from keras_mtl.core import checks
from keras_mtl.core.in_turn import in_turn


@keras.saving.register_keras_serializable(package="keras_mtl")
class GramianBalancing(GradientBalancing):
    """Base class of balancings whose direction is a weighted sum of the task gradients.

    A subclass writes `solve(gramian, active)` and returns the weights `(num_tasks,)`, in the
    dtype of `gramian`; it gets further keywords as `GradientBalancing` says. Weights of absent
    tasks do not matter: they are set to 0. They are those of the heads too with `weights_heads`.

    Args:
        scope: `"parameters"` or `"features"`, as in `GradientBalancing`.
        refresh_every: Integer >= 1. In training, the steps from one search for weights to the
            next. In between the last ones are reused, at the cost of one backward pass; a task
            that was absent at the search keeps its last weight, 1 at first. State of the method
            moves at the searches only.
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks, num_params)`, one gradient a row.
    Output shape: `(num_params,)`, the direction to descend.

    Raises:
        TypeError: If `refresh_every` is no integer.
        ValueError: If `scope` is neither of the two or refused, or `refresh_every` < 1.
    """

    reads_gramian_only = True

    def __init__(
        self,
        scope: str = "parameters",
        refresh_every: int = 1,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(scope=scope, name=name, **kwargs)
        self.refresh_every = checks.positive_integer("refresh_every", refresh_every)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        if self.refresh_every > 1:
            self.last_weights = self.add_task_variable("last_weights", "ones")
            self.steps_since_refresh = self.add_weight(
                shape=(),
                initializer="zeros",
                trainable=False,
                name="steps_since_refresh",
                aggregation="only_first_replica",
            )

    def solve(self, gramian: Any, active: Any, **more: Any) -> Any:
        """Returns the weights `(num_tasks,)` for a Gramian `(num_tasks, num_tasks)`."""
        raise NotImplementedError(f"{type(self).__name__} must define `solve(gramian, active)`.")

    def find_weights(self, gramian: Any, active: Any, **more: Any) -> Any:
        """Returns what `solve` finds, in the dtype of `active` and 0 for absent tasks."""
        weights = ops.cast(self.solve(gramian, active, **more), active.dtype)
        return ops.where(active > 0, weights, 0)

    def compute_weights(
        self, gramian: Any, active: Any = None, *, losses: Any = None, cross_gramian: Any = None
    ) -> Any:
        """Returns the weight of each task gradient in the direction.

        Args:
            gramian: Array of shape `(num_tasks, num_tasks)`, inner products of the gradients.
            active: Optional boolean array of shape `(num_tasks,)`; `False` for absent tasks.
            losses: Array of shape `(num_tasks,)`, for methods with `needs_losses`.
            cross_gramian: Optional array of shape `(num_tasks, num_tasks)`, for methods with
                `needs_cross_gramian` or `needs_cross_products`; by default the Gramian, as for
                one and the same batch.

        Returns:
            A tensor of shape `(num_tasks,)`; 0 for absent tasks.
        """
        gramian = _square("gramian", gramian)
        active = self._prepare("gramian", gramian, active)
        cross = gramian if cross_gramian is None else _square("cross_gramian", cross_gramian)
        both = (active[:, None] * active[None, :]) > 0
        more = self.more(
            losses=self._checked_losses(losses, active),
            **self.of_halves(ops.where(both, cross, 0), active),
        )
        return self.find_weights(ops.where(both, gramian, 0), active, **more)

    def combine(
        self, gradients: Sequence[Any], gramian: Any, active: Any, **more: Any
    ) -> list[Any]:
        return _weighted_sums(self.find_weights(gramian, active, **more), gradients)

    def balance(
        self, gradients: Sequence[Any], gramian: Any, active: Any, **more: Any
    ) -> tuple[list[Any], Any]:
        weights = self.find_weights(gramian, active, **more)
        if self.refresh_every > 1:
            self.last_weights.assign(weights)
            self.steps_since_refresh.assign(1.0)
        heads = self.head_weights(weights, active, **more) if self.weights_heads else None
        return _weighted_sums(weights, gradients), heads

    def count_step(self) -> None:
        """Counts a step in which the last weights were reused."""
        self.steps_since_refresh.assign(ops.mod(self.steps_since_refresh + 1, self.refresh_every))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "refresh_every": self.refresh_every}


def _weighted_sums(weights: Any, gradients: Sequence[Any]) -> list[Any]:
    return in_turn(lambda part: ops.matmul(weights, part), gradients)


def _square(argument: str, matrix: Any) -> Any:
    matrix = as_floats(matrix)
    if len(matrix.shape) != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(
            f"`{argument}` must have shape (num_tasks, num_tasks), received shape "
            f"{tuple(matrix.shape)}. For gradients G as rows it is G @ G.T."
        )
    return matrix
