"""Keras' rule by which shapes decide what `"crossentropy"` and `"accuracy"` stand for."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras


class ByShape(NamedTuple):
    """What one name stands for with each kind of labels.

    Args:
        binary: For labels that are 0 or 1.
        sparse: For class ids.
        categorical: For one-hot labels.
    """

    binary: Any
    sparse: Any
    categorical: Any

    def pick(self, labels: Sequence[int | None], predictions: Sequence[int | None]) -> Any:
        """Returns what Keras picks for labels and predictions of these shapes."""
        if predictions[-1] == 1:
            return self.binary
        if len(labels) < len(predictions) or labels[-1] == 1:
            return self.sparse
        return self.categorical


CROSSENTROPY = ByShape(
    keras.losses.binary_crossentropy,
    keras.losses.sparse_categorical_crossentropy,
    keras.losses.categorical_crossentropy,
)
ACCURACY = ByShape(
    keras.metrics.binary_accuracy,
    keras.metrics.sparse_categorical_accuracy,
    keras.metrics.categorical_accuracy,
)
