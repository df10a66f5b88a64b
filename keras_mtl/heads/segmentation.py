"""Segmentation: one class for each pixel."""

from typing import Any

import keras

from keras_mtl.core import checks
from keras_mtl.heads.base import DenseHead


@keras.saving.register_keras_serializable(package="keras_mtl")
class Segmentation(DenseHead):
    """Predicts the class of each pixel: one dense layer, interpolation, softmax.

    Predictions are `softmax(upsample(W features + b))`, probabilities at the resolution of the
    labels: with `upsampling=4` features of 32 x 32 serve labels of 128 x 128. It is a whole
    number; where no multiple fits, pad the images or resize in the task's tower. Metrics are
    the mean intersection over union, of the pixels of the whole epoch, and the accuracy. Adds
    `(channels + 1) * num_classes` parameters.

    Args:
        num_classes: Integer >= 2. Labels are integers from 0 to `num_classes - 1`.
        ignore_class: Optional integer. The label of pixels that have none; 255 by default,
            `None` where every pixel counts. It may be one of the classes, which is then not
            learned.
        activation: `"softmax"` for probabilities (default), or `None` for logits.
        upsampling: Integer >= 1. How many times finer than the features the predictions are
            along each axis, interpolated linearly; 1 by default.
        kernel_initializer: Initializer of the kernel, as in `keras.layers.Dense`.
        kernel_regularizer: Optional regularizer of the kernel.
        name: Optional string. Name of the layer; builders rename it to the task's name.

    Input shape: `(batch, height, width, channels)`, or with other axes in their place, as of
        volumes.
    Output shape: `(batch, height * upsampling, width * upsampling, num_classes)`. Labels have
        no last axis, or one of size 1.

    Raises:
        TypeError: If `num_classes`, `upsampling` or `ignore_class` is no integer.
        ValueError: If `num_classes` < 2, another argument is not among the above, or the
            features are several tensors or have no axes of pixels.

    Example:

    >>> head = keras_mtl.heads.Segmentation(21, upsampling=4)
    >>> head.compute_output_shape((None, 32, 32, 64))
    (None, 128, 128, 21)

    Reference:
        Long, Shelhamer, Darrell 2015, Fully convolutional networks for semantic segmentation,
        sec. 3.3 (interpolated scores) and 5 (mean IU), arXiv:1411.4038.
        Differs from the paper: interpolation is not learned; classes that neither labels nor
        predictions hold are left out of the mean.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_class: int | None = 255,
        activation: str | None = "softmax",
        **kwargs: Any,
    ) -> None:
        checks.one_of("activation", activation, ("softmax", None))
        num_classes = checks.positive_integer("num_classes", num_classes)
        if num_classes < 2:
            raise ValueError(
                f"`num_classes` must be an integer >= 2, received {checks.describe(num_classes)}. "
                "For pixels that are 0 or 1 use `num_classes=2`, or `BinaryClassification` with "
                "`pooling=None`."
            )
        pooling = kwargs.pop("pooling", None)
        checks.one_of("pooling", pooling, (None,))
        super().__init__(num_classes, activation, None, ignore_class=ignore_class, **kwargs)
        self.num_classes = num_classes

    def build(self, features_shape: Any) -> None:
        super().build(features_shape)
        if len(features_shape) < 3:
            raise ValueError(
                f"Segmentation '{self.name}' reads features of shape (batch, height, width, "
                f"channels), received {tuple(features_shape)}: they have no pixels left. Read "
                "them before they are pooled or flattened."
            )

    def default_loss(self) -> keras.Loss:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=self.activation is None)

    def default_metrics(self) -> list[Any]:
        # float64 counts pixels one by one to 9e15; float32 stops at 17 million, int32 at 2e9.
        mean_iou = keras.metrics.MeanIoU(
            self.num_classes,
            name="mean_iou",
            ignore_class=self.ignore_class,
            sparse_y_pred=False,
            dtype="float64",
        )
        return [mean_iou, "accuracy"]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_classes": self.num_classes}
