"""Detection: the objects of an image, each with its box and its class."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mtl.core import boxes as box_functions
from keras_mtl.core import checks
from keras_mtl.core.average_precision import average_precision
from keras_mtl.core.boxes import BoxFormat
from keras_mtl.core.detection_loss import DetectionLoss
from keras_mtl.core.locations import locations
from keras_mtl.heads.base import Head

# The share of objects among locations that the head begins with, and the deviation of its
# kernels, both as in the paper. More cells than this no image has to one side.
PRIOR = 0.01
DEVIATION = 0.01
FARTHEST = math.log(1000.0)
# How many images non-maximum suppression takes at once where they are measured.
ROWS = 64


@keras.saving.register_keras_serializable(package="keras_mtl")
class Detection(Head):
    """Predicts the objects of an image, without anchors (FCOS).

    Each cell of the features predicts, by one 3x3 convolution, a probability for each class, the
    distances to the four sides of its object's box and how near to the middle of that it lies.
    Several feature maps share the convolutions; small objects are for the fine ones. Predictions
    are these, for all cells; `decode`, which an exported model serves, keeps the best by
    non-maximum suppression: `"boxes"`, `"labels"` and `"scores"`, which the SavedModel names
    `<task>_boxes` and so on. `keras_mtl.callbacks.AveragePrecision` measures them in `fit`. Adds
    `9 * channels * (num_classes + 5) + num_classes + 5` parameters.

    Labels are a dict: `"boxes"` `(batch, max_boxes, 4)` and integers `"labels"`
    `(batch, max_boxes)`, both padded with -1. A row of -1 has no objects; a row whose boxes are
    all NaN has no label. `encode` makes them of lists. An object in whose box no centre of a cell
    lies teaches nothing: read finer features for such.

    Args:
        num_classes: Integer >= 1. Labels are integers from 0 to `num_classes - 1`.
        bounding_box_format: String. How boxes are written, in labels and in predictions, as in
            `keras.utils.bounding_boxes.convert_format`; `"rel_xyxy"` by default.
        image_size: Optional `(height, width)` of the images in pixels; needed unless the format
            is relative.
        on_bad_box: What to do with a box of no area or that reaches out of the image: `"error"`
            (default) before training, `"drop"` it, or `"clip"` it to the image.
        max_detections: Integer >= 1. The most objects that are served for an image; 100 by
            default.
        score_threshold: Float from 0 to 1. Objects with lower scores are not served.
        iou_threshold: Float from 0 to 1. Of two boxes of one class with a higher intersection
            over union, the better is served.
        name: Optional string. Name of the layer; builders rename it to the task's name.

    Input shape: `(batch, height, width, channels)`, or a dict of these; height and width known.
    Output shape: a dict of `"boxes"` `(batch, cells, 4)`, `"classes"`
    `(batch, cells, num_classes)` and `"centerness"` `(batch, cells)`.

    Raises:
        TypeError: If a number has the wrong type.
        ValueError: If an argument is not among the above, or the features are no maps of known
            size, or of different channels.

    Example:

    >>> head = keras_mtl.heads.Detection(2)
    >>> head.compute_output_shape((None, 4, 4, 8))["classes"]
    (None, 16, 2)
    >>> labels = head.encode([{"boxes": [[0.0, 0.0, 0.5, 1.0]], "labels": [1]}, None])
    >>> labels["labels"]
    [[1], [-1]]

    Reference:
        Tian, Shen, Chen, He 2019, FCOS: fully convolutional one-stage object detection,
        arXiv:1904.01355, section 3; with the improvements of arXiv:2006.09214, section 2: only
        locations near the middle, distances in cells, GIoU, sqrt(class * centerness) as score.
        Differs from the paper: no convolutions before these two, which a task's tower may have;
        the centerness beside the boxes; each row counts its own locations (`DetectionLoss`).
    """

    def __init__(
        self,
        num_classes: int,
        bounding_box_format: str = "rel_xyxy",
        image_size: Sequence[int] | None = None,
        *,
        on_bad_box: str = "error",
        max_detections: int = 100,
        score_threshold: float = 0.05,
        iou_threshold: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_classes = checks.positive_integer("num_classes", num_classes)
        checks.one_of("on_bad_box", on_bad_box, ("error", "drop", "clip"))
        self.format = BoxFormat.of(bounding_box_format, image_size)
        self.on_bad_box = on_bad_box
        self.max_detections = checks.positive_integer("max_detections", max_detections)
        self.score_threshold = _share("score_threshold", score_threshold)
        self.iou_threshold = _share("iou_threshold", iou_threshold)
        self.grids: list[tuple[int, int]] = []
        bias = keras.initializers.Constant(-math.log((1 - PRIOR) / PRIOR))
        self.classes = self._convolution(num_classes, bias, "classes")
        self.boxes = self._convolution(5, "zeros", "boxes")

    def _convolution(self, filters: int, bias: Any, name: str) -> keras.layers.Layer:
        return keras.layers.Conv2D(
            filters,
            3,
            padding="same",
            kernel_initializer=keras.initializers.RandomNormal(stddev=DEVIATION),
            bias_initializer=bias,
            dtype=self.dtype_policy,
            name=name,
        )

    def build(self, features_shape: Any) -> None:
        maps = _maps(self.name, features_shape)
        shapes = [tuple(shape) for shape in maps.values()]
        self._order = list(maps)
        self.grids = [shape[1:3] for shape in shapes]
        self._locations = locations(self.grids)
        self.classes.build(shapes[0])
        self.boxes.build(shapes[0])

    def call(self, features: Any) -> dict[str, Any]:
        named = features if isinstance(features, Mapping) else {None: features}
        parts = [named[key] for key in self._order]
        logits = self._everywhere(self.classes, parts)
        raw = self._everywhere(self.boxes, parts)
        centers, cells = self._locations.centers, self._locations.cells
        distances = ops.exp(ops.minimum(raw[..., :4], FARTHEST))
        low, high = centers - distances[..., :2] * cells, centers + distances[..., 2:4] * cells
        boxes = self.format.from_relative(ops.concatenate([low, high], axis=-1))
        return {
            "boxes": ops.cast(boxes, raw.dtype),
            # Last, because Keras notes the logits on these, from which the loss is stable.
            "classes": keras.activations.sigmoid(logits),
            "centerness": keras.activations.sigmoid(raw[..., 4]),
        }

    def _everywhere(self, convolution: Any, maps: Sequence[Any]) -> Any:
        """Returns what the convolution says at each cell of all maps: `(batch, cells, filters)`."""
        dtype = keras.backend.result_type(self.compute_dtype, "float32")
        parts = [
            ops.reshape(ops.cast(convolution(x), dtype), (-1, math.prod(grid), convolution.filters))
            for x, grid in zip(maps, self.grids, strict=True)
        ]
        return ops.concatenate(parts, axis=1)

    def compute_mask(self, features: Any, mask: Any = None) -> Any:
        # A mask of steps fits no cells.
        del features, mask

    def compute_output_shape(self, features_shape: Any) -> dict[str, tuple[int | None, ...]]:
        shapes = [tuple(shape) for shape in _maps(self.name, features_shape).values()]
        rows, cells = shapes[0][0], sum(math.prod(shape[1:3]) for shape in shapes)
        return {
            "boxes": (rows, cells, 4),
            "classes": (rows, cells, self.num_classes),
            "centerness": (rows, cells),
        }

    def default_loss(self) -> keras.Loss:
        if not self.grids:
            raise RuntimeError(
                f"Detection '{self.name}' must be built before it has a loss, which needs the size "
                "of its features. Use it in a model first."
            )
        return DetectionLoss(self.num_classes, self.grids, *self.format, on_bad_box=self.on_bad_box)

    def decode(self, predictions: Mapping[str, Any]) -> dict[str, Any]:
        scores = ops.sqrt(predictions["classes"] * ops.expand_dims(predictions["centerness"], -1))
        best = box_functions.suppress(
            self.format.to_relative(predictions["boxes"]),
            scores,
            max_detections=self.max_detections,
            iou_threshold=self.iou_threshold,
            score_threshold=self.score_threshold,
        )
        real = ops.expand_dims(best["labels"] >= 0, -1)
        boxes = ops.where(real, self.format.from_relative(best["boxes"]), -1.0)
        return {**best, "boxes": boxes}

    def encode(self, rows: Sequence[Mapping[str, Any] | None]) -> dict[str, np.ndarray]:
        """Returns labels for rows of any number of objects; `None` is a row without a label.

        Args:
            rows: List of dicts with `"boxes"`, `(objects, 4)`, and `"labels"`, `(objects,)`.

        Raises:
            TypeError: If `rows` is one dict, or a row is none and not `None`.
            ValueError: If a row has not as many boxes as labels, or not both.
        """
        return box_functions.padded(rows)

    def bad_boxes(self, labels: Mapping[str, Any]) -> np.ndarray:
        """Returns where boxes have no area or reach out of the image: `(batch, max_boxes)`."""
        relative = self.format.to_relative(labels["boxes"])
        bad = ops.logical_or(
            box_functions.has_no_area(relative), box_functions.reaches_out(relative)
        )
        real = np.asarray(labels["labels"]) >= 0
        return np.asarray(bad) & real & ~box_functions.is_unlabelled(labels["boxes"])[:, None]

    def average_precision(
        self, labels: Mapping[str, Any], predictions: Mapping[str, Any], iou: float = 0.5
    ) -> np.ndarray:
        """Returns the average precision of each class, `(num_classes,)`, as COCO measures it.

        It depends on all rows at once, so it is no metric of `compile`. The mean, `np.nanmean`,
        is the field's mAP at this intersection over union. Needs
        `pip install "keras_mtl[detection]"`.

        Args:
            labels: Labels as in `fit`. Rows without a label are left out.
            predictions: What `predict` returned for the task, or what was served.
            iou: Float. The intersection over union from which on an object is found.

        Returns:
            A float array, NaN for classes of which there is no object.

        Raises:
            ValueError: If `labels` or `predictions` are not those of one detection task.
        """
        box_functions.check_parts("labels", labels, ("boxes", "labels"))
        box_functions.check_parts("predictions", predictions, ("boxes",))
        served = predictions if "scores" in predictions else self._decode_in_turn(predictions)
        relative = self.format.to_relative(labels["boxes"])
        boxes, ids = box_functions.repair(relative, labels["labels"], self.on_bad_box)
        found = {**served, "boxes": self.format.to_relative(served["boxes"])}
        return average_precision(
            {"boxes": boxes, "labels": ids}, found, self.num_classes, float(iou)
        )

    def _decode_in_turn(self, predictions: Mapping[str, Any]) -> dict[str, np.ndarray]:
        rows = len(predictions["boxes"])
        parts = [
            self.decode({key: x[start : start + ROWS] for key, x in predictions.items()})
            for start in range(0, rows, ROWS)
        ]
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def get_config(self) -> dict[str, Any]:
        config = {
            **super().get_config(),
            "num_classes": self.num_classes,
            "bounding_box_format": self.format.name,
            "image_size": self.format.image_size,
            "on_bad_box": self.on_bad_box,
            "max_detections": self.max_detections,
            "score_threshold": self.score_threshold,
            "iou_threshold": self.iou_threshold,
        }
        del config["ignore_class"]  # -1 pads, and rows without a label are NaN
        return config


def _maps(name: str, shapes: Any) -> dict[Any, Any]:
    """Returns the shapes of the feature maps by key, the finest first; by `None` of one tensor."""
    named = shapes if isinstance(shapes, Mapping) else {None: shapes}
    for shape in named.values():
        if len(shape) != 4 or None in tuple(shape)[1:3]:
            raise ValueError(
                f"Detection '{name}' needs features of shape (batch, height, width, channels) with "
                f"height and width known, received {tuple(shape)}. Give it a trunk that keeps both "
                "axes, and inputs of one size, such as `keras.Input((128, 128, 3))`."
            )
    if len({shape[-1] for shape in named.values()}) > 1:
        channels = {key: shape[-1] for key, shape in named.items()}
        raise ValueError(
            f"Detection '{name}' shares its convolutions between feature maps, which must have "
            f"equally many channels, received {channels}. Project them in the trunk."
        )
    order = sorted(named, key=lambda key: -math.prod(tuple(named[key])[1:3]))
    return {key: named[key] for key in order}


def _share(argument: str, value: Any) -> float:
    return checks.finite_number(argument, value, minimum=0.0, maximum=1.0)
