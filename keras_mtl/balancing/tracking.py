"""What balancings that remember something for each parameter of each task share."""

from collections.abc import Sequence
from typing import Any

from keras import ops

from keras_mtl.balancing.base import GradientBalancing
from keras_mtl.core.balanced import gramian_of
from keras_mtl.core.in_turn import after, in_turn


class TrackingBalancing(GradientBalancing):
    """Base class of balancings that keep numbers for each parameter of each task.

    A subclass sets `num_tracked`, how many it keeps, and writes `track`, which maps the gradients
    and what was kept to the rows that are combined and what is kept from now on, and
    `solve(gramian, active)`, which returns the weights of the rows from the rows' Gramian. What
    belongs to tasks that take no part does not move, and their rows count for nothing. Rows that
    are a new value, the same object, need no memory of their own.

    Only scope `"parameters"` is possible: features are other ones in every batch.

    Args:
        name: Optional string. Name of the layer.

    Input shape: `(num_tasks, num_params)`, one gradient a row.
    Output shape: `(num_params,)`, the direction to descend.
    """

    num_tracked = 1
    features_reason = (
        "it keeps numbers for each parameter of each task, and the features are other ones in "
        "every batch."
    )

    def __init__(self, scope: str = "parameters", name: str | None = None, **kwargs: Any) -> None:
        super().__init__(scope=scope, name=name, **kwargs)
        # Past the tracking of Keras, which would refuse the lists made after `build`.
        object.__setattr__(self, "tracked", [])

    @property
    def task_variables(self) -> list[Any]:
        """The variables with one entry or row a task."""
        return [*super().task_variables, *self.tracked_variables]

    @property
    def tracked_variables(self) -> list[Any]:
        """The variables `(num_tasks, size)`, whose rows this class itself leaves alone."""
        return [variable for part in self.tracked for variable in part]

    def build_for_parts(self, sizes: Sequence[int]) -> None:
        """Makes the variables, once, for gradients in parts of these sizes."""
        if not self.tracked:
            with self.added_late():
                self.tracked.extend(self._variables(part, size) for part, size in enumerate(sizes))
        found = [part[0].shape[1] for part in self.tracked]
        if found != list(sizes):
            raise ValueError(
                f"{type(self).__name__} '{self.name}' was built for gradients of the sizes "
                f"{found}, received {list(sizes)}. Make a new {type(self).__name__} for them."
            )

    def _variables(self, part: int, size: int) -> list[Any]:
        return [
            self.add_weight(
                shape=(self.num_tasks, size),
                initializer="zeros",
                trainable=False,
                name=f"tracked_{part}_{index}",
                aggregation="only_first_replica",
            )
            for index in range(self.num_tracked)
        ]

    def track(
        self, gradients: Any, tracked: Sequence[Any], active: Any, **more: Any
    ) -> tuple[Any, Sequence[Any]]:
        """Returns the rows to combine and the new values of what is tracked, for one part.

        Args:
            gradients: Tensor `(num_tasks, size)`, or `(1, size)` where `needs_one_task`.
            tracked: Tensors `(num_tasks, size)`, `num_tracked` of them.
            active: Float tensor `(num_tasks,)`, 1.0 for tasks present in the step.
            **more: What the method has declared to need.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `track`.")

    def solve(self, gramian: Any, active: Any, **more: Any) -> Any:
        """Returns the weights `(num_tasks,)` of the rows, from their Gramian."""
        raise NotImplementedError(f"{type(self).__name__} must define `solve(gramian, active)`.")

    def row_factors(self) -> Any:
        """Hook: returns what the rows of `track` are multiplied by, `(num_tasks,)`, or `None`.

        To multiply the rows themselves would take a copy of them.
        """
        return None

    def combine(
        self, gradients: Sequence[Any], gramian: Any, active: Any, **more: Any
    ) -> list[Any]:
        moves = active * ops.cast(more.get("chosen", 1.0), active.dtype)
        done = in_turn(
            lambda part, variables: self._track(part, variables, active, moves, more),
            gradients,
            self.tracked,
        )
        rows = [part for part, _ in done]
        gramian = gramian_of(rows)
        factors = self.row_factors()
        if factors is not None:
            factors = ops.cast(factors, gramian.dtype)
            gramian = gramian * factors[:, None] * factors[None, :]
        both = (active[:, None] * active[None, :]) > 0
        weights = self.solve(ops.where(both, gramian, 0), active, **more)
        weights = ops.cast(weights, gramian.dtype)
        weights = ops.where(active > 0, weights if factors is None else weights * factors, 0)
        # Weights that do not come from the Gramian are known before all is written.
        with after([kept for _, kept in done]):
            return in_turn(lambda part: ops.matmul(weights, part), rows)

    def _track(
        self, part: Any, variables: Sequence[Any], active: Any, moves: Any, more: dict[str, Any]
    ) -> tuple[Any, list[Any]]:
        """Returns the rows and what is kept, so that both are there before the next part."""
        before = [ops.cast(variable.value, part.dtype) for variable in variables]
        rows, after = self.track(part, before, active, **more)
        kept = []
        for variable, old, new in zip(variables, before, after, strict=True):
            now = ops.where(moves[:, None] > 0, new, old)
            variable.assign(now)
            kept.append(variable.value)
            if rows is new:
                rows = kept[-1] if variable.dtype == part.dtype else now
        return rows, kept
