"""Everything the logs of a model hold, exact over batches and replicas."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras.src.trainers.compile_utils import CompileMetrics

from keras_mtl.core import replicas
from keras_mtl.core.gains import Gains
from keras_mtl.core.losses import LossSum
from keras_mtl.core.task_means import TaskMeans
from keras_mtl.core.task_metrics import Direction, TaskMetric


class LogBook(CompileMetrics):
    """Holds the trackers of task losses and weights, and the users' metrics, by log name.

    A `CompileMetrics`, because that is where Keras' callbacks look for a metric's direction
    under `mode="auto"`.

    Args:
        tasks: List of strings, the tasks with a loss.
        task_metrics: Dict from task to its list of `TaskMetric`.
        skips: Boolean. Whether skipped updates are counted in the logs.
        baselines: Optional dict from log name to its single-task value, for `Gains`.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        task_metrics: Mapping[str, Sequence[TaskMetric]],
        *,
        skips: bool = False,
        baselines: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(None, None)
        self._tasks = tuple(tasks)
        self._losses = TaskMeans(len(tasks), name="task_losses")
        self._weights = TaskMeans(len(tasks), name="task_weights")
        self._extra = keras.metrics.Mean(name="extra_loss", dtype="float32")
        self._skipped = keras.metrics.Sum(name="skipped_updates") if skips else None
        self._task_metrics = dict(task_metrics)
        self.built = True
        self._gains = Gains({} if baselines is None else baselines, self._entries())

    def _entries(self) -> dict[str, list[Any]]:
        return {
            task: [Direction(f"{task}_loss"), *self._task_metrics.get(task, [])]
            for task in self._tasks
        }

    @property
    def metrics(self) -> list[Any]:
        """The logged values in order, each with a `name`; what callbacks read."""
        groups = self._entries().values()
        losses = [group[0] for group in groups]
        metrics = [entry for group in groups for entry in group[1:]]
        return [*losses, *metrics, *self._gains.entries]

    @property
    def variables(self) -> list[Any]:
        return [variable for metric in self._all() for variable in metric.variables]

    def _all(self) -> list[Any]:
        own = [self._losses, self._weights, self._extra]
        own += [] if self._skipped is None else [self._skipped]
        return own + [entry.metric for entries in self._task_metrics.values() for entry in entries]

    def reset_state(self) -> None:
        """Starts the averages anew."""
        for metric in self._all():
            metric.reset_state()

    def update_losses(self, sums: Sequence[LossSum], counted: Any = None) -> None:
        """Adds this replica's sums; the mean over all replicas and batches is exact."""
        totals, denominators, labelled = (tf.stack(column) for column in zip(*sums, strict=True))
        # A task that no row carries adds nothing, also where a loss is divided by 1.
        denominators = tf.where(labelled > 0, denominators, tf.zeros_like(denominators))
        self._losses.update_state(totals, denominators, counted)

    def update_weights(self, weights: Any, active: Any, counted: Any = None) -> None:
        """Adds the effective task weights of a step; absent tasks do not count."""
        self._weights.update_state(weights * active, active, counted)

    def update_extra(self, extra: Any, batch_size: Any) -> None:
        """Adds the regularisation and `add_loss` terms of a batch."""
        self._extra.update_state(extra, sample_weight=batch_size)

    def update_skipped(self, counted: Any) -> None:
        """Counts an update that was dropped, once for all replicas."""
        if self._skipped is not None:
            self._skipped.update_state((1.0 - tf.cast(counted, tf.float32)) / replicas.count())

    def update_metrics(self, elements: Mapping[str, Any], counted: Any = None) -> None:
        """Adds a batch to the metrics of every task in `elements`."""
        for task, parts in elements.items():
            used = parts if counted is None else parts.zero_unless(counted)
            for entry in self._task_metrics.get(task, []):
                entry.update(used, counted)

    def evaluation_loss(self, constants: Any) -> Any:
        """Returns sum_k c_k L_k plus the extra terms, from the exact means."""
        return tf.reduce_sum(constants * self._losses.result()) + self._extra.result()

    def logs(self, loss: Any, *, training: bool) -> dict[str, Any]:
        """Returns what a step hands to Keras: `loss`, and the results."""
        logs = {"loss": loss, **self.results(training=training)}
        if replicas.several_workers(tf.distribute.get_strategy()):
            # Keras reduces each log over its first axis when there are several workers.
            return {name: tf.reshape(value, (1,)) for name, value in logs.items()}
        return logs

    def results(self, *, training: bool) -> dict[str, Any]:
        """Returns the values by log name; task weights in training only."""
        logs = self._by_task(self._losses, "loss")
        for task in self._tasks:
            for entry in self._task_metrics.get(task, []):
                logs.update(_named(task, entry))
        logs.update(self._gains.results(logs, self.measured()))
        if training:
            logs.update(self._by_task(self._weights, "weight"))
            if self._skipped is not None:
                logs[self._skipped.name] = self._skipped.result()
        return logs

    def measured(self) -> dict[str, Any]:
        """Returns for each task a boolean scalar, whether any of its labels was there so far."""
        flags = tf.unstack(self._losses.count.value > 0, num=len(self._tasks))
        return dict(zip(self._tasks, flags, strict=True))

    def _by_task(self, means: TaskMeans, suffix: str) -> dict[str, Any]:
        values = tf.unstack(means.result(), num=len(self._tasks))
        return {f"{task}_{suffix}": x for task, x in zip(self._tasks, values, strict=True)}

    def result(self) -> dict[str, Any]:
        return self.results(training=True)

    def update_state(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError("The training step updates a LogBook part by part.")


def _named(task: str, entry: TaskMetric) -> dict[str, Any]:
    result = entry.metric.result()
    if isinstance(result, Mapping):
        return {f"{task}_{name}": value for name, value in result.items()}
    return {entry.name: result}
