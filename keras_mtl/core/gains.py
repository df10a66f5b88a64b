"""Relative gains over single-task baselines, averaged in the two ways in use."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from keras_mtl.core import checks
from keras_mtl.core.task_metrics import Direction

DELTA_M, DELTA_P = "delta_m", "delta_p"


class Gains:
    """Measures how much better than its single-task baselines a model is, in percent.

    The gain of a metric is (M - B) / |B|, with the sign turned where lower is better, so a
    positive gain is a better model. `delta_m` is the mean over the metrics; `delta_p` is the mean
    over tasks of each task's mean. They agree where every task has as many baselines. A task of
    which no label was there has no gain and is left out.

    Args:
        baselines: Dict from log name to its single-task value; empty for no gains.
        entries: Dict from task to its logged values, each with a `name`.

    Reference:
        Maninis, Radosavovic, Kokkinos 2019, arXiv:1904.08918 and Vandenhende et al. 2021, eq. 10,
        arXiv:2004.13379: one metric a task, so both are theirs. `delta_m` is the mean of B. Liu
        et al. 2021 (CAGrad), arXiv:2110.14048 and Navon et al. 2022 (Nash-MTL), arXiv:2202.01017;
        `delta_p` that of B. Lin, Zhang 2023 (LibMTL), arXiv:2203.14338.
        Differs from the paper: CAGrad, Nash-MTL and those after them report a drop, with the
        opposite sign. |B| for B, so that baselines below 0 keep the direction.
    """

    def __init__(
        self, baselines: Mapping[str, float], entries: Mapping[str, Sequence[Any]]
    ) -> None:
        known = {
            entry.name: (task, entry)
            for task, group in entries.items()
            for entry in group
            if entry.knows_direction
        }
        _check(baselines, known)
        self._baselines = dict(baselines)
        self._signs = {
            name: 1.0 if known[name][1]._direction == "up" else -1.0 for name in baselines
        }
        self._tasks = {name: known[name][0] for name in baselines}

    @property
    def entries(self) -> list[Any]:
        """What callbacks read: the averages' names and that higher is better."""
        return [Direction(name, "up") for name in (DELTA_M, DELTA_P) if self._baselines]

    def results(self, logs: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
        """Returns both averages of the gains in `logs`, over the tasks that were measured.

        Args:
            logs: Dict that holds every baseline's name.
            measured: Dict from task to a boolean scalar, whether any label of it was there.
        """
        if not self._baselines:
            return {}
        by_task: dict[str, list[Any]] = {}
        for name, base in self._baselines.items():
            value = tf.cast(logs[name], tf.float32)  # a metric may be of another dtype
            gain = self._signs[name] * (value - base) / abs(base)
            by_task.setdefault(self._tasks[name], []).append(gain)
        there = {task: tf.cast(measured[task], tf.float32) for task in by_task}
        gains = [(gain, there[task]) for task, group in by_task.items() for gain in group]
        means = [(tf.reduce_mean(tf.stack(group)), there[t]) for t, group in by_task.items()]
        return {DELTA_M: 100.0 * _mean(gains), DELTA_P: 100.0 * _mean(means)}


def _mean(pairs: Sequence[tuple[Any, Any]]) -> Any:
    """Returns the mean of the values whose weight is 1, not 0; 0 if none is."""
    values, weights = (tf.stack(column) for column in zip(*pairs, strict=True))
    return tf.math.divide_no_nan(tf.reduce_sum(weights * values), tf.reduce_sum(weights))


def _check(baselines: Any, known: Mapping[str, Any]) -> None:
    if not isinstance(baselines, Mapping):
        raise TypeError(
            f"`baselines` must be a dict keyed by log name, received "
            f"{checks.describe(baselines)}. Write `baselines={{'{next(iter(known))}': ...}}`."
        )
    for name, value in baselines.items():
        if name not in known:
            raise ValueError(
                f"`baselines` must be keyed by log names with a known direction. Expected "
                f"some of {list(known)}, received '{name}'." + checks.suggestion(name, known)
            )
        if checks.finite_number(f"baselines['{name}']", value) == 0:
            raise ValueError(f"`baselines['{name}']` must not be 0: gains are relative to it.")
