"""The average precision of detections, as COCO measures it."""

import contextlib
import io
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from keras_mtl.core.boxes import is_unlabelled


def average_precision(
    expected: Mapping[str, Any], found: Mapping[str, Any], num_classes: int, iou: float
) -> np.ndarray:
    """Returns the average precision of each class, `(num_classes,)`, by pycocotools.

    Args:
        expected: Dict of `"boxes"` `(rows, max_boxes, 4)`, relative, and `"labels"`, -1 where
            there is no box. Rows of NaN have no label and are left out.
        found: The same, with `"scores"` too.
        num_classes: Integer.
        iou: Float. The intersection over union from which on a box is found.

    Returns:
        A float array, NaN for classes of which there is no object.
    """
    coco, evaluation = _pycocotools()
    rows = np.flatnonzero(~is_unlabelled(expected["boxes"]))
    truth, boxes = coco.COCO(), list(_entries(expected, rows))
    truth.dataset = {
        "info": {},
        "images": [{"id": int(row)} for row in rows],
        "categories": [{"id": label} for label in range(num_classes)],
        "annotations": boxes,
    }
    labels = {box["category_id"] for box in boxes}
    guesses = list(_entries(found, rows))
    if not guesses:  # of which pycocotools cannot read none
        return np.array([0.0 if label in labels else np.nan for label in range(num_classes)])
    with contextlib.redirect_stdout(io.StringIO()):  # it tells each step
        truth.createIndex()
        measured = evaluation.COCOeval(truth, truth.loadRes(guesses), "bbox")
        measured.params.iouThrs = np.array([iou])
        measured.params.areaRng, measured.params.areaRngLbl = [[0.0, 1e10]], ["all"]
        measured.params.maxDets = [np.shape(found["labels"])[1]]
        measured.evaluate()
        measured.accumulate()
    # By threshold, recall, class, area and number of detections; -1 without an object.
    precision = measured.eval["precision"][0, :, :, 0, 0].mean(axis=0)
    return np.where(precision < 0, np.nan, precision)


def _entries(boxes: Mapping[str, Any], rows: Iterable[int]) -> Iterable[dict[str, Any]]:
    """Yields each box as COCO writes it, numbered from 1: pycocotools takes 0 for no match."""
    parts = {key: np.asarray(value) for key, value in boxes.items()}
    number = 0
    for row in rows:
        for index in np.flatnonzero(parts["labels"][row] >= 0):
            left, top, right, bottom = map(float, parts["boxes"][row, index])
            number += 1
            entry = {
                "id": number,
                "image_id": int(row),
                "category_id": int(parts["labels"][row, index]),
                "bbox": [left, top, right - left, bottom - top],
                "area": (right - left) * (bottom - top),
                "iscrowd": 0,
            }
            if "scores" in parts:
                entry["score"] = float(parts["scores"][row, index])
            yield entry


def _pycocotools() -> tuple[Any, Any]:
    try:
        from pycocotools import coco, cocoeval  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            "Average precision needs pycocotools. Install it with `pip install "
            '"keras_mtl[detection]"`.'
        ) from error
    return coco, cocoeval
