"""Logs the mean average precision of a detection task."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_mtl.callbacks.base import TaskCallback, number_of_rows
from keras_mtl.core import checks
from keras_mtl.core.serving import head_of


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
        iou: Float, or a list of floats of which the mean is taken: from which intersection over
            union on an object is found. 0.5 by default, `np.arange(0.5, 1, 0.05)` for COCO's.
        batch_size: Integer >= 1. Rows computed at once.
        update_freq: Integer >= 1. It is measured every so many epochs, and after the first.

    Raises:
        TypeError: If an argument has the wrong type, or `task` has no head that detects.
        ValueError: If an argument is out of range, `x` and `y` differ in their number of rows, or
            the task is unknown, not given or without labels.

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
        iou: float | Sequence[float] = 0.5,
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
        thresholds = iou if isinstance(iou, list | tuple | np.ndarray) and len(iou) else [iou]
        self.iou = [
            checks.finite_number("iou", value, minimum=0, maximum=1) for value in thresholds
        ]
        self.batch_size = checks.positive_integer("batch_size", batch_size)
        self.update_freq = checks.positive_integer("update_freq", update_freq)
        self._reader: keras.Model | None = None

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Finds the head, and checks task and labels before the first step."""
        del logs
        detectors = [
            task
            for task, output in self.model.output.items()
            if hasattr(head_of(output), "average_precision")
        ]
        self._task = self._chosen(detectors)
        labels = self.y.get(self._task)
        if not isinstance(labels, Mapping) or not {"boxes", "labels"} <= set(labels):
            raise ValueError(
                f"`y['{self._task}']` must be a dict with 'boxes' and 'labels', received "
                f"{checks.describe(labels)}."
            )
        if (rows := number_of_rows("y", dict(labels))) != self._rows:
            raise ValueError(f"`x` has {self._rows} rows, and `y['{self._task}']` has {rows}.")
        self._reader = keras.Model(self.model.input, self.model.output[self._task])

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
            keras.tree.map_structure(np.asarray, head.decode(self._predict(start)))
            for start in range(0, self._rows, self.batch_size)
        ]
        found = {key: np.concatenate([part[key] for part in served]) for key in served[0]}
        precisions = [head.average_precision(labels, found, iou) for iou in self.iou]
        return float(np.mean([np.nanmean(values) for values in precisions]))

    def _predict(self, start: int) -> dict[str, Any]:
        batch = keras.tree.map_structure(
            lambda values: values[start : start + self.batch_size], self.x
        )
        return self._reader(batch, training=False)
