"""Losses of heads that say of themselves what training wants to know of a loss."""

from typing import Any, ClassVar

import keras
from keras import ops


class ElementwiseLoss(keras.Loss):
    """Base class of losses that compare one label with one prediction.

    A subclass writes `elements(y_true, y_pred)`, in the shape of both. The loss is the mean of
    these over the last axis, so that columns may miss one by one.
    """

    # Whether the loss is never negative, by rounding neither, for labels that pass the checks.
    nonnegative: ClassVar[bool] = False
    # The least label allowed, and what labels are called where a smaller one is refused.
    lowest_label: ClassVar[float | None] = None
    label_noun: ClassVar[str] = "numbers"

    def elements(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the loss of each element."""
        raise NotImplementedError(f"{type(self).__name__} must define `elements`.")

    def call(self, y_true: Any, y_pred: Any) -> Any:
        if len(y_true.shape) == len(y_pred.shape) - 1 and y_pred.shape[-1] == 1:
            # Labels `(batch,)` would spread over the predictions `(batch, 1)`.
            y_true = ops.expand_dims(y_true, -1)
        return ops.mean(self.elements(y_true, y_pred), axis=-1)
