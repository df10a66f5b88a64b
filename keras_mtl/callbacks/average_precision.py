"""Logs the mean average precision of a detection task."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_mtl.callbacks.base import TaskCallback, number_of_rows, rows_between
from keras_mtl.core import checks, label_checks
from keras_mtl.core.compilation import head_of
from keras_mtl.core.losses import TaskLoss
from keras_mtl.core.plan import TaskPlan


class AveragePrecision(TaskCallback):
    """Logs the mean average precision (mAP) of a detection task at the end of an epoch.

    It depends on all rows at once, so that no metric of `compile` can measure it. The logs of an
    epoch hold `val_<task>_average_precision`, the mean over the classes that occur in `y`, from 0
    to 1: callbacks that stand behind it in the list, such as `keras.callbacks.EarlyStopping`,
    can monitor it, with `mode="max"`. Needs `pip install "keras_mtl[detection]"`.

    Args:
        x: Arrays as the model takes them: one, or a list or dict by input. They should be rows
            that the model does not train on.
        y: Dict from task to labels, as for `fit`; those of `task` are needed.
        task: Optional string. The detection task; by default the one there is.
        iou: Float, or a list or array of floats of which the mean is taken: from which
            intersection over union on an object is found. 0.5 by default,
            `np.arange(0.5, 1, 0.05)` for COCO's.
        batch_size: Integer >= 1. Rows computed at once.
        update_freq: Integer >= 1. It is measured every so many epochs, and after the first. In
            the epochs between the logs have no value: `keras.callbacks.EarlyStopping` warns then
            that its metric is not available, and does not count them towards its patience.

    Raises:
        TypeError: If an argument has the wrong type, or `task` has no head that detects.
        ValueError: If an argument is out of range, `x` does not fit the model, `x` and `y` differ
            in their number of rows, the task is unknown or not given, or its labels are none
            that `fit` takes or hold no object.
        ImportError: If pycocotools is missing.

    Example:

    >>> detection = keras_mtl.heads.Detection(2)
    >>> model = keras_mtl.architectures.hard_sharing(
    ...     keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 2, strides=2), {"cells": detection}
    ... )
    >>> model.compile("sgd")
    >>> x = np.ones((1, 8, 8, 3))
    >>> y = {"cells": detection.encode([{"boxes": [[0.0, 0.0, 0.5, 1.0]], "labels": [1]}])}
    >>> monitor = keras_mtl.callbacks.AveragePrecision(x, y)
    >>> history = model.fit(x, y, verbose=0, callbacks=[monitor]).history
    >>> len(history["val_cells_average_precision"])
    1

    Reference:
        Everingham et al. 2010, The Pascal visual object classes (VOC) challenge, IJCV 88, section
        4.2; as T.-Y. Lin et al. 2014, Microsoft COCO, arXiv:1405.0312, compute it, by pycocotools.
    """

    def __init__(
        self,
        x: Any,
        y: Mapping[str, Any],
        task: str | None = None,
        iou: float | Sequence[float] | np.ndarray = 0.5,
        batch_size: int = 32,
        update_freq: int = 1,
    ) -> None:
        super().__init__()
        self.x = x
        self._rows = number_of_rows("x", x)
        if not isinstance(y, Mapping):
            raise TypeError(
                f"`y` must be a dict from task to labels, received {checks.describe(y)}."
            )
        self.y = y
        self.task = task
        self.iou = _thresholds(iou)
        self.batch_size = checks.positive_integer("batch_size", batch_size)
        self.update_freq = checks.positive_integer("update_freq", update_freq)
        self._reader: keras.Model | None = None

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Finds the head, and checks task, labels and `x` before the first step."""
        del logs
        detectors = [
            task
            for task, output in self.model.output.items()
            if hasattr(head_of(output), "average_precision")
        ]
        self._task = self._chosen(detectors)
        output = self.model.output[self._task]
        self._check_labels(head_of(output), keras.tree.map_structure(lambda x: x.shape, output))
        self._reader = keras.Model(self.model.input, output)
        self.check_inputs(self.x, lambda: self._predict(0, 1))

    def _check_labels(self, head: Any, prediction_shape: Any) -> None:
        labels, argument = self.y.get(self._task), f"`y['{self._task}']`"
        if not isinstance(labels, Mapping) or not {"boxes", "labels"} <= set(labels):
            raise ValueError(
                f"{argument} must be a dict with 'boxes' and 'labels', received "
                f"{checks.describe(labels)}."
            )
        # As `fit` checks them.
        plan = TaskPlan(self._task, TaskLoss(self._task, head.default_loss()))
        label_checks.check(plan, labels, prediction_shape)
        if (rows := number_of_rows("y", dict(labels))) != self._rows:
            raise ValueError(
                f"`x` has {self._rows} rows, and {argument} has {rows}. Give labels of the same "
                "rows."
            )
        # The mean over no class is NaN, in which a callback that monitors it sees no improvement.
        if np.isnan(head.average_precision(labels, _nothing(rows))).all():
            raise ValueError(
                f"{argument} must have at least one labelled object to find, received {rows} rows "
                "without one. Give rows with objects: -1 pads, rows of NaN have no label, and "
                "boxes that the head leaves out, such as those of no area, do not count."
            )

    def _chosen(self, detectors: Sequence[str]) -> str:
        if self.task is None and len(detectors) == 1:
            return detectors[0]
        if self.task is None:
            raise ValueError(
                f"AveragePrecision needs `task`, one of those that detect: {list(detectors)}."
            )
        checks.one_of("task", self.task, list(self.model.output))
        if self.task not in detectors:
            raise TypeError(
                f"Task '{self.task}' has no head that detects, such as "
                "`keras_mtl.heads.Detection`, so that there is no average precision of it."
            )
        return self.task

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the average precision to the logs, in the epochs in which it is measured."""
        if logs is not None and epoch % self.update_freq == 0:
            logs[f"val_{self._task}_average_precision"] = self._measure()

    def _measure(self) -> float:
        head, labels = head_of(self.model.output[self._task]), self.y[self._task]
        served = [
            # Decoded batch by batch: all cells of all images may be many.
            keras.tree.map_structure(
                np.asarray, head.decode(self._predict(start, start + self.batch_size))
            )
            for start in range(0, self._rows, self.batch_size)
        ]
        found = {key: np.concatenate([part[key] for part in served]) for key in served[0]}
        precisions = [head.average_precision(labels, found, iou) for iou in self.iou]
        return float(np.mean([np.nanmean(values) for values in precisions]))

    def _predict(self, start: int, stop: int) -> dict[str, Any]:
        return self._reader(rows_between(self.x, start, stop), training=False)


def _thresholds(iou: Any) -> list[float]:
    given = iou.tolist() if isinstance(iou, np.ndarray) else iou
    values = given if isinstance(given, list | tuple) and given else [given]
    return [checks.finite_number("iou", value, minimum=0, maximum=1) for value in values]


def _nothing(rows: int) -> dict[str, np.ndarray]:
    """Returns what is served where no object is found."""
    return {
        "boxes": np.full((rows, 1, 4), -1.0, "float32"),
        "labels": np.full((rows, 1), -1),
        "scores": np.zeros((rows, 1), "float32"),
    }
