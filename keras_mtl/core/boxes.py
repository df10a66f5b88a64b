"""Boxes of objects, and how well they agree.

Inside, a box is `(left, top, right, bottom)` in relative coordinates: 0 to 1 over the image.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_mtl.core import checks

RELATIVE = "rel_xyxy"
# As in `keras.utils.bounding_boxes.convert_format`, which does not export them.
FORMATS = (
    "xyxy",
    "yxyx",
    "xywh",
    "center_xywh",
    "center_yxhw",
    "rel_xyxy",
    "rel_yxyx",
    "rel_xywh",
    "rel_center_xywh",
)
# In parts of the image: what annotators and float32 round away, and what is no side of a box.
TOLERANCE = 1e-4
NO_SIDE = 1e-6


class BoxFormat(NamedTuple):
    """How a user writes boxes.

    Args:
        name: String, one of `FORMATS`.
        image_size: Optional `(height, width)` in pixels; needed unless the format is relative.
    """

    name: str
    image_size: tuple[int, int] | None = None

    @classmethod
    def of(cls, name: Any, image_size: Any) -> Self:
        """Returns a checked format.

        Raises:
            TypeError: If `image_size` is no pair of integers.
            ValueError: If there is no format of that name, or the size does not fit.
        """
        checks.one_of("bounding_box_format", name, FORMATS)
        if image_size is not None:
            return cls(name, _pair(image_size))
        if not name.startswith("rel_"):
            raise ValueError(
                f"`bounding_box_format='{name}'` is in pixels and needs `image_size`, "
                "(height, width), received None. Give it, or use a relative format, 'rel_xyxy'."
            )
        return cls(name)

    def to_relative(self, boxes: Any) -> Any:
        """Returns relative boxes for boxes in this format, `(..., 4)`."""
        return self._convert(boxes, self.name, RELATIVE)

    def from_relative(self, boxes: Any) -> Any:
        """Returns boxes in this format for relative boxes, `(..., 4)`."""
        return self._convert(boxes, RELATIVE, self.name)

    def _convert(self, boxes: Any, source: str, target: str) -> Any:
        # Between relative formats Keras asks for a size too, and does not use it.
        height, width = (1, 1) if self.image_size is None else self.image_size
        return keras.utils.bounding_boxes.convert_format(
            boxes, source=source, target=target, height=height, width=width
        )


def _pair(image_size: Any) -> tuple[int, int]:
    try:
        height, width = image_size
    except (TypeError, ValueError) as error:
        raise type(error)(
            "`image_size` must be two integers, (height, width), received "
            f"{checks.describe(image_size)}. Leave the channels out, and write both for a square."
        ) from error
    return (
        checks.positive_integer("image_size[0]", height),
        checks.positive_integer("image_size[1]", width),
    )


def has_no_area(boxes: Any) -> Any:
    """Returns a boolean tensor `(...)`: where relative boxes have a side that is 0 or negative."""
    return ops.logical_not(ops.all(boxes[..., 2:] - boxes[..., :2] > NO_SIDE, axis=-1))


def reaches_out(boxes: Any) -> Any:
    """Returns a boolean tensor `(...)`: where relative boxes reach out of the image."""
    inside = ops.logical_and(boxes > -TOLERANCE, boxes < 1.0 + TOLERANCE)
    return ops.logical_not(ops.all(inside, axis=-1))


def repair(boxes: Any, labels: Any, on_bad_box: str) -> tuple[Any, Any]:
    """Returns relative boxes and their labels, where those left out have the label -1.

    Args:
        boxes: Tensor `(batch, max_boxes, 4)`.
        labels: Integer tensor `(batch, max_boxes)`.
        on_bad_box: `"clip"` clips boxes to the image, `"drop"` leaves out those that reach out of
            it; both leave out boxes of no area, as `"error"` does with what it has not seen.
    """
    if on_bad_box == "clip":
        boxes = ops.clip(boxes, 0.0, 1.0)
    bad = has_no_area(boxes)
    if on_bad_box == "drop":
        bad = ops.logical_or(bad, reaches_out(boxes))
    return boxes, ops.where(bad, -1, labels)


def generalized_iou(boxes: Any, others: Any) -> Any:
    """Returns the generalized intersection over union of pairs of boxes, from -1 to 1.

    >>> keras_mtl.core.boxes.generalized_iou([0.0, 0.0, 0.4, 0.4], [0.2, 0.0, 0.6, 0.4])
    0.33333

    Args:
        boxes: Tensor `(..., 4)`.
        others: Tensor `(..., 4)`, boxes with an area.

    Reference:
        Rezatofighi et al. 2019, Generalized intersection over union, arXiv:1902.09630, alg. 1.
    """
    boxes, others = ops.convert_to_tensor(boxes), ops.convert_to_tensor(others)
    low, high = boxes[..., :2], boxes[..., 2:]
    other_low, other_high = others[..., :2], others[..., 2:]
    overlap = _area(ops.maximum(low, other_low), ops.minimum(high, other_high))
    union = _area(low, high) + _area(other_low, other_high) - overlap
    hull = _area(ops.minimum(low, other_low), ops.maximum(high, other_high))
    return overlap / union - (hull - union) / hull


def _area(low: Any, high: Any) -> Any:
    sides = ops.maximum(high - low, 0.0)
    return sides[..., 0] * sides[..., 1]


def suppress(
    boxes: Any,
    scores: Any,
    *,
    max_detections: int,
    iou_threshold: float,
    score_threshold: float,
) -> dict[str, Any]:
    """Returns the best boxes by non-maximum suppression, class by class.

    Args:
        boxes: Tensor `(batch, locations, 4)`, relative.
        scores: Tensor `(batch, locations, num_classes)`.
        max_detections: Integer. The number of boxes returned for a row.
        iou_threshold: Float. Of two boxes of one class that overlap more, the better stays.
        score_threshold: Float. Boxes with lower scores are left out.

    Returns:
        A dict with `"boxes"`, relative and within the image, `(batch, max_detections, 4)`, and
        `"labels"` and `"scores"`, `(batch, max_detections)`, best first. Where there are fewer,
        boxes and labels are -1 and scores 0.
    """
    swapped = tf.gather(tf.cast(boxes, tf.float32), [1, 0, 3, 2], axis=-1)
    found = tf.image.combined_non_max_suppression(
        tf.expand_dims(swapped, 2),
        tf.cast(scores, tf.float32),
        max_detections,
        max_detections,
        iou_threshold,
        score_threshold,
    )
    valid = tf.range(max_detections) < found.valid_detections[:, tf.newaxis]
    best = tf.gather(found.nmsed_boxes, [1, 0, 3, 2], axis=-1)
    return {
        "boxes": tf.where(valid[..., tf.newaxis], best, -1.0),
        "labels": tf.where(valid, tf.cast(found.nmsed_classes, tf.int32), -1),
        "scores": tf.where(valid, found.nmsed_scores, 0.0),
    }


def padded(rows: Sequence[Mapping[str, Any] | None]) -> dict[str, np.ndarray]:
    """Returns boxes and labels as arrays, padded with -1; NaN for a row that is `None`.

    Args:
        rows: List of dicts with `"boxes"`, `(objects, 4)`, and `"labels"`, `(objects,)`.
    """
    _check_rows(rows)
    longest = max([1, *(len(row["labels"]) for row in rows if row is not None)])
    boxes = np.full((len(rows), longest, 4), -1.0, "float32")
    labels = np.full((len(rows), longest), -1, "int32")
    for index, row in enumerate(rows):
        if row is None:
            boxes[index] = np.nan
            continue
        given, count = np.reshape(row["boxes"], (-1, 4)), len(row["labels"])
        if len(given) != count:
            raise ValueError(
                f"Row {index} of `rows` must have a label for each box, received {len(given)} "
                f"boxes and {count} labels."
            )
        boxes[index, :count], labels[index, :count] = given, row["labels"]
    return {"boxes": boxes, "labels": labels}


def _check_rows(rows: Any) -> None:
    keys = "a dict with the keys ['boxes', 'labels']"
    if isinstance(rows, Mapping):
        raise TypeError(
            f"`rows` must be a list of {keys}, one a row, received one dict with the keys "
            f"{list(rows)}. Write `[{{...}}]` for one row."
        )
    for index, row in enumerate(rows):
        what = f"Row {index} of `rows` must be {keys}, or None for a row without a label"
        if row is not None and not isinstance(row, Mapping):
            raise TypeError(f"{what}, received {checks.describe(row)}.")
        if row is not None and not {"boxes", "labels"} <= set(row):
            raise ValueError(f"{what}, received the keys {list(row)}. Rename or add them.")


def check_parts(argument: str, given: Any, parts: Sequence[str]) -> None:
    """Checks that `given` is of one task: a dict with the keys `parts`.

    Raises:
        ValueError: If it is not; what is by task is told from its entries.
    """
    if isinstance(given, Mapping) and set(parts) <= set(given):
        return
    named = given if isinstance(given, Mapping) else {}
    tasks = [key for key, value in named.items() if isinstance(value, Mapping)]
    raise ValueError(
        f"`{argument}` must be those of one task, a dict with the keys {list(parts)}, received "
        + (f"the keys {list(named)}." if named else f"{checks.describe(given)}.")
        + (f" Give the task's alone: `{argument}['{tasks[0]}']`." if tasks else "")
    )


def is_unlabelled(boxes: Any) -> np.ndarray:
    """Returns a boolean array `(rows,)`: rows of boxes that are NaN, so without a label."""
    return np.isnan(np.asarray(boxes, "float32")).any(axis=(1, 2))
