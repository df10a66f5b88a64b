"""The loss of detections: which objects, where, and how near to their middle."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_mtl.core import boxes as box_functions
from keras_mtl.core.boxes import BoxFormat
from keras_mtl.core.head_loss import Fault, PartsLoss
from keras_mtl.core.locations import assign, locations

# The share of objects among the two classes of each focal loss; its exponent is 2.
ALPHA = 0.25


@keras.saving.register_keras_serializable(package="keras_mtl")
class DetectionLoss(PartsLoss):
    """Computes the loss of a `Detection` head, one value a row.

    With N the number of locations that are to find an object, at least 1:
    `(sum focal(classes) + sum over these (1 - GIoU(box) + BCE(centerness))) / N`.

    Args:
        num_classes: Integer.
        grids: List of `(height, width)`, the feature maps, the finest first.
        bounding_box_format: String. How boxes are written.
        image_size: Optional `(height, width)`, needed unless boxes are relative.
        on_bad_box: `"error"`, `"drop"` or `"clip"`.
        name: Optional string. Name of the loss.
        kwargs: Further arguments of `keras.Loss`.

    Example:

    >>> loss = keras_mtl.core.detection_loss.DetectionLoss(1, [(1, 1)])
    >>> image, half = np.array([[[0, 0, 1, 1]]]), np.full((1, 1, 1), 0.5)
    >>> predictions = {"boxes": image, "classes": half, "centerness": half[0]}
    >>> loss({"boxes": image, "labels": np.array([[0]])}, predictions)  # (1/16 + 1) ln 2
    0.736469

    Reference:
        Tian, Shen, Chen, He 2019, FCOS, arXiv:1904.01355, eq. 2 and 3.
        Differs from the paper: GIoU in place of IoU, as in arXiv:2006.09214; N is that of the
        row, not of the batch, so that a row teaches the same in any batch and on any replica.
    """

    parts = ("boxes", "labels")

    def __init__(
        self,
        num_classes: int,
        grids: Sequence[tuple[int, int]],
        bounding_box_format: str = box_functions.RELATIVE,
        image_size: tuple[int, int] | None = None,
        on_bad_box: str = "error",
        name: str = "detection",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.num_classes = num_classes
        self.grids = [(int(height), int(width)) for height, width in grids]
        self.format = BoxFormat(bounding_box_format, image_size)
        self.on_bad_box = on_bad_box
        self._locations = locations(self.grids)

    def elements(self, y_true: Any, y_pred: Any, labelled: Any, present: Any) -> Any:
        del labelled, present  # whole rows are left out after the loss, and boxes have no padding
        boxes = self.format.to_relative(y_true["boxes"])
        labels = ops.cast(y_true["labels"], "int32")
        boxes, labels = box_functions.repair(boxes, labels, self.on_bad_box)
        targets = assign(boxes, labels, self._locations)
        found = ops.cast(targets.labels >= 0, "float32")
        classes = ops.one_hot(targets.labels, self.num_classes, dtype="float32")
        focal = ops.sum(_focal(classes, _logits(y_pred["classes"])), axis=(1, 2))
        predicted = self.format.to_relative(y_pred["boxes"])
        misses = 1.0 - box_functions.generalized_iou(predicted, targets.boxes)
        centerness = _crossentropy(targets.centerness, _logits(y_pred["centerness"]))
        # Rounding must not make a perfect box cost less than nothing.
        per_object = ops.maximum(misses, 0.0) + centerness
        objects = ops.maximum(ops.sum(found, axis=1), 1.0)
        return (focal + ops.sum(ops.where(found > 0, per_object, 0.0), axis=1)) / objects

    def faults(
        self, labels: Any, ignore_class: int | None, prediction_shape: Sequence[int | None]
    ) -> list[Fault]:
        del ignore_class, prediction_shape  # -1 pads, and no shape of a grid binds labels
        boxes, ids = labels["boxes"], labels["labels"]
        if len(boxes.shape) != 3 or boxes.shape[-1] != 4:
            return [Fault(True, "must have shape (batch, max_boxes, 4).", "boxes")]
        if len(ids.shape) != 2 or not keras.backend.is_int_dtype(ids.dtype):
            return [Fault(True, "must be integers (batch, max_boxes).", "labels")]
        if None not in (ids.shape[1], boxes.shape[1]) and ids.shape[1] != boxes.shape[1]:
            message = f"must have a class for each of the {boxes.shape[1]} boxes of a row."
            return [Fault(True, message, "labels")]
        ids = ops.cast(ids, "int64")
        highest = self.num_classes - 1
        message = f"must hold class ids from 0 to {highest}, or -1 where boxes are padded."
        wrong = ops.logical_or(ids < -1, ids > highest)
        faults = self._box_faults(ops.cast(boxes, "float32"), ids)
        return [Fault(wrong, message, "labels"), *faults]

    def _box_faults(self, boxes: Any, ids: Any) -> list[Fault]:
        missing = ops.isnan(boxes)
        whole = ops.all(missing, axis=(1, 2), keepdims=True)
        real = ops.logical_and(ids >= 0, ops.logical_not(whole[..., 0]))
        found = [
            (
                ops.logical_and(missing, ops.logical_not(whole)),
                "must be NaN in whole rows, which have no label then. Pad boxes with -1.",
            ),
            (ops.isinf(boxes), "must be finite."),
        ]
        if self.on_bad_box == "error":
            relative = self.format.to_relative(boxes)
            advice = (
                f"in the format '{self.format.name}'. Correct them, or give the head "
                "`on_bad_box='drop'` or 'clip'."
            )
            for fault, noun in (
                (box_functions.has_no_area, "have an area"),
                (box_functions.reaches_out, "lie within the image"),
            ):
                bad = ops.logical_and(real, fault(relative))
                found.append((bad, f"must {noun}, {advice}"))
        return [Fault(bad, message, "boxes") for bad, message in found]

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "grids": self.grids,
            "bounding_box_format": self.format.name,
            "image_size": self.format.image_size,
            "on_bad_box": self.on_bad_box,
        }


def _focal(targets: Any, logits: Any) -> Any:
    """Returns -alpha_t (1 - p_t)^2 log(p_t), p_t being the probability of what is right."""
    wrong = ops.abs(targets - ops.sigmoid(logits))
    alpha = ops.where(targets > 0, ALPHA, 1.0 - ALPHA)
    return alpha * ops.square(wrong) * _crossentropy(targets, logits)


def _crossentropy(targets: Any, logits: Any) -> Any:
    return ops.binary_crossentropy(targets, logits, from_logits=True)


def _logits(probabilities: Any) -> Any:
    logits = getattr(probabilities, "_keras_logits", None)
    if logits is None:
        tiny = keras.backend.epsilon()
        p = ops.clip(probabilities, tiny, 1.0 - tiny)
        logits = ops.log(p) - ops.log1p(-p)
    return ops.cast(logits, "float32")
