"""Classification: one class out of several, for a row or for each of its steps."""

from typing import Any

import keras

from keras_mtl.core import checks
from keras_mtl.heads.base import DenseHead


@keras.saving.register_keras_serializable(package="keras_mtl")
class Classification(DenseHead):
    """Predicts one class out of several: pool, one dense layer, softmax.

    Predictions are `softmax(W pool(features) + b)`, what one would serve. With `pooling=None`
    every step gets its own class (tagging, segmentation) and the padding mask goes along. The
    loss is computed from the logits either way. Adds `(channels + 1) * num_classes` parameters.

    Args:
        num_classes: Integer >= 2. Labels are integers from 0 to `num_classes - 1`; one-hot where
            the task is given a loss for these, such as `"categorical_crossentropy"`.
        activation: `"softmax"` for probabilities (default), or `None` for logits.
        pooling: `"avg"` (default) or `"max"` over the axes between batch and channels, leaving
            padding out; `None` keeps them.
        upsampling: Integer >= 1. Without pooling, how many times finer than the features the
            predictions are, interpolated linearly; 1 by default.
        ignore_class: Optional integer. The label that means "no label"; -1 by default, `None`
            where every label counts.
        kernel_initializer: Initializer of the kernel, as in `keras.layers.Dense`.
        kernel_regularizer: Optional regularizer of the kernel.
        name: Optional string. Name of the layer; builders rename it to the task's name.

    Input shape: `(batch, ..., channels)`.
    Output shape: `(batch, num_classes)`; without pooling `(batch, ..., num_classes)`.

    Raises:
        TypeError: If `num_classes` or `ignore_class` is no integer.
        ValueError: If `num_classes` < 2, another argument is not among the above, or the
            features are several tensors.

    Example:

    >>> head = keras_mtl.heads.Classification(10)
    >>> head.compute_output_shape((None, 28, 28, 64))
    (None, 10)
    """

    def __init__(
        self,
        num_classes: int,
        activation: str | None = "softmax",
        pooling: str | None = "avg",
        ignore_class: int | None = -1,
        **kwargs: Any,
    ) -> None:
        checks.one_of("activation", activation, ("softmax", None))
        num_classes = checks.positive_integer("num_classes", num_classes)
        if num_classes < 2:
            raise ValueError(
                f"`num_classes` must be an integer >= 2, received {checks.describe(num_classes)}. "
                "For a label that is 0 or 1 use `num_classes=2` or `BinaryClassification`."
            )
        super().__init__(num_classes, activation, pooling, ignore_class=ignore_class, **kwargs)
        self.num_classes = num_classes

    def default_loss(self) -> keras.Loss:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=self.activation is None)

    def default_metrics(self) -> list[str]:
        # By name: which accuracy it is follows the labels, class ids or one-hot.
        return ["accuracy"]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_classes": self.num_classes}
