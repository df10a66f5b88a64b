"""Everything the logs of a model hold, exact over batches and replicas."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras.src.trainers.compile_utils import CompileMetrics

from keras_mtl.core import checks
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
        baselines: Optional dict from log name to its single-task value, for `delta_m`.
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
        self._extra = keras.metrics.Mean(name="extra_loss")
        self._skipped = keras.metrics.Sum(name="skipped_updates") if skips else None
        self._task_metrics = dict(task_metrics)
        self.built = True
        self._baselines: dict[str, float] = {}
        self._signs = self._check_baselines({} if baselines is None else baselines)
        self._baselines = dict(baselines or {})

    def _check_baselines(self, baselines: Mapping[str, float]) -> dict[str, float]:
        entries = {entry.name: entry for entry in self.metrics if entry.knows_direction}
        if not isinstance(baselines, Mapping):
            raise TypeError(
                f"`baselines` must be a dict keyed by log name, received "
                f"{checks.describe(baselines)}. Write `baselines={{'{next(iter(entries))}': ...}}`."
            )
        signs = {}
        for name, value in baselines.items():
            if name not in entries:
                raise ValueError(
                    f"`baselines` must be keyed by log names with a known direction. Expected "
                    f"some of {list(entries)}, received '{name}'."
                    + checks.suggestion(name, entries)
                )
            if checks.finite_number(f"baselines['{name}']", value) == 0:
                raise ValueError(f"`baselines['{name}']` must not be 0: gains are relative to it.")
            signs[name] = 1.0 if entries[name]._direction == "up" else -1.0
        return signs

    @property
    def metrics(self) -> list[Any]:
        """The logged values in order, each with a `name`; what callbacks read."""
        entries = [Direction(f"{task}_loss") for task in self._tasks]
        for task in self._tasks:
            entries += self._task_metrics.get(task, [])
        return [*entries, *([Direction("delta_m", "up")] if self._baselines else [])]

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

    def update_skipped(self, skipped: Any) -> None:
        """Counts an update that was dropped, once for all replicas."""
        if self._skipped is not None:
            self._skipped.update_state(skipped)

    def update_metrics(self, elements: Mapping[str, Any], counted: Any = None) -> None:
        """Adds a batch to the metrics of every task in `elements`."""
        for task, parts in elements.items():
            used = parts if counted is None else parts.zero_unless(counted)
            for entry in self._task_metrics.get(task, []):
                entry.update(used, counted)

    def evaluation_loss(self, constants: Any) -> Any:
        """Returns sum_k c_k L_k plus the extra terms, from the exact means."""
        return tf.reduce_sum(constants * self._losses.result()) + self._extra.result()

    def results(self, *, training: bool) -> dict[str, Any]:
        """Returns the values by log name; task weights in training only."""
        logs = self._by_task(self._losses, "loss")
        for task in self._tasks:
            for entry in self._task_metrics.get(task, []):
                logs.update(_named(task, entry))
        if self._baselines:
            logs["delta_m"] = self._delta_m(logs)
        if training:
            logs.update(self._by_task(self._weights, "weight"))
            if self._skipped is not None:
                logs[self._skipped.name] = self._skipped.result()
        return logs

    def _by_task(self, means: TaskMeans, suffix: str) -> dict[str, Any]:
        values = tf.unstack(means.result(), num=len(self._tasks))
        return {f"{task}_{suffix}": x for task, x in zip(self._tasks, values, strict=True)}

    def _delta_m(self, logs: Mapping[str, Any]) -> Any:
        # Maninis et al. 2019: the mean of (-1)^l (M - B) / B, l = 1 where lower is better.
        gains = [
            self._signs[name] * (logs[name] - base) / abs(base)
            for name, base in self._baselines.items()
        ]
        return 100.0 * tf.reduce_mean(tf.stack(gains))

    def result(self) -> dict[str, Any]:
        return self.results(training=True)

    def update_state(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError("The training step updates a LogBook part by part.")


def _named(task: str, entry: TaskMetric) -> dict[str, Any]:
    result = entry.metric.result()
    if isinstance(result, Mapping):
        return {f"{task}_{name}": value for name, value in result.items()}
    return {entry.name: result}
