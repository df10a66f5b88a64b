"""Weighted means of one value a task."""

from typing import Any

import keras
import tensorflow as tf


class TaskMeans(keras.metrics.Metric):
    """Keeps one weighted mean a task in two vectors: cheaper than a metric a task.

    Args:
        num_tasks: Integer.
        name: String.
    """

    def __init__(self, num_tasks: int, name: str) -> None:
        super().__init__(name=name, dtype="float32")
        self.total = self.add_variable((num_tasks,), "zeros", self.dtype, name="total")
        self.count = self.add_variable((num_tasks,), "zeros", self.dtype, name="count")

    def update_state(self, totals: Any, counts: Any, counted: Any = None) -> None:
        """Adds weighted sums and sums of weights `(num_tasks,)`, unless `counted` is false."""
        if counted is not None:
            # NaN times 0 is NaN: what does not count is replaced.
            totals = tf.where(counted, totals, tf.zeros_like(totals))
            counts = tf.where(counted, counts, tf.zeros_like(counts))
        self.total.assign_add(totals)
        self.count.assign_add(counts)

    def result(self) -> Any:
        return tf.math.divide_no_nan(self.total.value, self.count.value)
