"""Task gradients as rows of matrices, without a second copy of them."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import tensorflow as tf

from keras_mtl.core.in_turn import SMALL


class TaskRows:
    """Matrices `(num_tasks, size)`, one a variable, filled as the passes of the tasks end.

    Stacking needs all rows of all variables and the matrices at once: twice the memory. Here each
    row is written into its place, and the next pass waits for that. Where it does not matter, the
    rows are stacked: small ones, because small passes are faster side by side; and under XLA,
    which plans memory by itself and has no operation that writes in place.

    Args:
        num_tasks: Integer. Number of rows.
        size: Integer. Number of elements of a task's gradient, in all variables.
        compiled: Boolean. Whether the step is compiled by XLA.
    """

    def __init__(self, num_tasks: int, size: int, *, compiled: bool) -> None:
        self._num_tasks = num_tasks
        self._stacked = compiled or size < SMALL
        self._rows: list[Sequence[Any]] = []
        self._matrices: list[Any] = []

    def after_the_last(self) -> AbstractContextManager:
        """Returns a context whose operations wait until the rows so far are written."""
        return tf.control_dependencies(self._matrices) if self._matrices else nullcontext()

    def add(self, rows: Sequence[Any]) -> None:
        """Adds the next task's gradients, a float32 tensor `(size,)` for each variable."""
        if self._stacked:
            self._rows.append(rows)
            return
        index = len(self._rows)
        self._rows.append(())
        if not self._matrices:
            self._matrices = [self._empty(row) for row in rows]
        self._matrices = [
            tf.raw_ops.InplaceUpdate(x=matrix, i=[index], v=row[None])
            for matrix, row in zip(self._matrices, rows, strict=True)
        ]

    def _empty(self, row: Any) -> Any:
        shape = tf.concat([[self._num_tasks], tf.shape(row)], axis=0)
        matrix = tf.raw_ops.Empty(shape=shape, dtype=row.dtype)
        return tf.ensure_shape(matrix, [self._num_tasks, *row.shape])

    def matrices(self) -> list[Any]:
        """Returns the matrices, once every task has its row."""
        if self._stacked:
            return [tf.stack(column) for column in zip(*self._rows, strict=True)]
        return self._matrices
