"""Ordinal: one of several classes that have an order, such as grades."""

from typing import Any

import keras
from keras import ops

from keras_mtl.core import checks
from keras_mtl.heads.base import DenseHead


@keras.saving.register_keras_serializable(package="keras_mtl")
class Ordinal(DenseHead):
    """Predicts one of several ordered classes: pool, one dense layer, a chain of questions.

    With z = W pool(features) + b, the k-th question is whether a label that has reached class k
    goes on to a higher one: P(y > k | y >= k) = sigmoid(z_k). So P(y > k), their product, never
    rises with k. Predictions are the probabilities of the classes. The loss is their cross
    entropy, which is that of the questions a label has come to, computed from logits. The answer
    that `decode` and an exported SavedModel give is the median class, of the least expected
    distance to the label; the metric is that distance. Adds `(channels + 1) * (num_classes - 1)`
    parameters.

    Args:
        num_classes: Integer >= 2. Labels are integers from 0, the lowest, to `num_classes - 1`.
        pooling: `"avg"` (default) or `"max"` over the axes between batch and channels, leaving
            padding out; `None` keeps them.
        ignore_class: Optional integer. The label that means "no label"; -1 by default, `None`
            where every label counts.
        upsampling: Integer >= 1. Without pooling, how many times finer than the features the
            predictions are, interpolated linearly; 1 by default.
        kernel_initializer: Initializer of the kernel, as in `keras.layers.Dense`.
        kernel_regularizer: Optional regularizer of the kernel.
        name: Optional string. Name of the layer; builders rename it to the task's name.

    Input shape: `(batch, ..., channels)`.
    Output shape: `(batch, num_classes)`; without pooling `(batch, ..., num_classes)`.

    Raises:
        TypeError: If `num_classes`, `upsampling` or `ignore_class` is no integer.
        ValueError: If `num_classes` < 2, another argument is not among the above, or the
            features are several tensors.

    Example:

    >>> head = keras_mtl.heads.Ordinal(4, kernel_initializer="zeros")
    >>> head(np.zeros((1, 5)))
    [[0.5, 0.25, 0.125, 0.125]]

    Reference:
        Shi, Cao, Raschka 2021, Deep neural networks for rank-consistent ordinal regression based
        on conditional probabilities, arXiv:2111.08851 (the chain); Niu et al. 2016, Ordinal
        regression with multiple output CNN for age estimation, CVPR (the answer).
        Differs from the paper: the loss is a mean over rows and not over questions, which makes
        it the likelihood, as in Jenkinson et al. 2021, arXiv:2110.07470.
    """

    def __init__(
        self,
        num_classes: int,
        pooling: str | None = "avg",
        ignore_class: int | None = -1,
        **kwargs: Any,
    ) -> None:
        num_classes = checks.positive_integer("num_classes", num_classes)
        if num_classes < 2:
            raise ValueError(
                f"`num_classes` must be an integer >= 2, received {checks.describe(num_classes)}."
            )
        super().__init__(num_classes - 1, None, pooling, ignore_class=ignore_class, **kwargs)
        self.num_classes = num_classes

    def activate(self, logits: Any) -> Any:
        none = ops.zeros_like(logits[..., :1])
        # log P(y = k) = sum_{j < k} log sigmoid(z_j) + log sigmoid(-z_k), the last without a stop
        reached = ops.concatenate([none, ops.cumsum(ops.log_sigmoid(logits), axis=-1)], axis=-1)
        stopped = ops.concatenate([ops.log_sigmoid(-logits), none], axis=-1)
        # Their exponentials add up to 1: the softmax only notes them, as logits for the loss.
        return keras.activations.softmax(reached + stopped)

    def compute_output_shape(
        self, features_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        return (*super().compute_output_shape(features_shape)[:-1], self.num_classes)

    def default_loss(self) -> keras.Loss:
        return keras.losses.SparseCategoricalCrossentropy()

    def default_metrics(self) -> list[keras.Metric]:
        return [OrdinalMeanAbsoluteError(name="mae")]

    def decode(self, predictions: Any) -> Any:
        """Returns the median class of each prediction, an integer."""
        return median_class(predictions)

    def get_config(self) -> dict[str, Any]:
        config = {**super().get_config(), "num_classes": self.num_classes}
        del config["activation"]
        return config


def median_class(probabilities: Any) -> Any:
    """Returns the class up to which, and from which on, half the probability lies.

    Args:
        probabilities: Tensor `(..., num_classes)`.

    Returns:
        An integer tensor `(...)`: how many k have P(y > k) > 0.5.

    Example:

    >>> keras_mtl.heads.ordinal.median_class(np.array([[0.4, 0.3, 0.3], [0.1, 0.1, 0.8]]))
    [1, 2]
    """
    up_to = ops.cumsum(probabilities, axis=-1)[..., :-1]
    return ops.sum(ops.cast(up_to < 0.5, "int32"), axis=-1)


@keras.saving.register_keras_serializable(package="keras_mtl")
class OrdinalMeanAbsoluteError(keras.metrics.MeanMetricWrapper):
    """Mean distance of the median class from the label, in classes.

    Args:
        name: Optional string. Name of the metric.
        dtype: Optional. As in Keras.

    Example:

    >>> metric = keras_mtl.heads.ordinal.OrdinalMeanAbsoluteError()
    >>> metric.update_state(np.array([0, 2]), np.array([[0.4, 0.3, 0.3], [0.1, 0.1, 0.8]]))
    >>> metric.result()
    0.5
    """

    def __init__(self, name: str | None = "mae", dtype: Any = None) -> None:
        super().__init__(_distance, name=name, dtype=dtype)
        self._direction = "down"

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype}


def _distance(y_true: Any, y_pred: Any) -> Any:
    if len(y_true.shape) == len(y_pred.shape):
        y_true = ops.squeeze(y_true, -1)
    return ops.absolute(ops.cast(median_class(y_pred), "float32") - ops.cast(y_true, "float32"))
