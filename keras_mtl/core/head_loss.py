"""Losses of heads, which say of themselves what training wants to know of a loss.

Of a Keras loss `losses.py` knows it by its function. Nothing asks for one of these classes but
for `HeadLoss`: what training does differently, a loss declares.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import keras
from keras import ops


class Fault(NamedTuple):
    """What is wrong with labels.

    Args:
        bad: Boolean tensor in the shape of the labels: where. Without their last axis, whole
            vectors are shown. `True` where all of them are wrong, by shape or dtype; what comes
            after it is not looked at.
        message: String. What they must be.
        part: Optional string. The part of labels that are dicts.
    """

    bad: Any
    message: str
    part: str | None = None


class HeadLoss(keras.Loss):
    """Base class of the losses of heads; on its own, what is known of a loss of the user's."""

    # Whether it is a mean over the last axis of a function of one label and one prediction.
    elementwise: ClassVar[bool] = False
    # Whether `elements` computes it, a value a row or step, told what is missing and padding.
    reads_masks: ClassVar[bool] = False
    # Whether labels are class ids.
    takes_class_ids: ClassVar[bool] = False
    # Whether it is never negative, by rounding neither, for labels that pass the checks.
    nonnegative: ClassVar[bool] = False
    # The least label allowed, and what labels are called where a smaller one is refused.
    lowest_label: ClassVar[float | None] = None
    label_noun: ClassVar[str] = "numbers"
    # The keys of labels that are dicts.
    parts: ClassVar[tuple[str, ...]] = ()

    def faults(
        self, labels: Any, ignore_class: int | None, prediction_shape: Sequence[int | None]
    ) -> list[Fault]:
        """Returns what is wrong with labels.

        Args:
            labels: Labels as the user gave them; with `parts`, a dict of tensors with these keys.
            ignore_class: Optional integer that marks missing labels.
            prediction_shape: Tuple, the shape of the predictions, or a dict of them.
        """
        del labels, ignore_class, prediction_shape
        return []


class ElementwiseLoss(HeadLoss):
    """Base class of losses that compare one label with one prediction.

    A subclass writes `elements(y_true, y_pred)`, in the shape of both. The loss is the mean of
    these over the last axis, so that columns may miss one by one.
    """

    elementwise = True

    @abstractmethod
    def elements(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the loss of each element."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        if len(y_true.shape) == len(y_pred.shape) - 1 and y_pred.shape[-1] == 1:
            # Labels `(batch,)` would spread over the predictions `(batch, 1)`.
            y_true = ops.expand_dims(y_true, -1)
        return ops.mean(self.elements(y_true, y_pred), axis=-1)


class SequenceLoss(HeadLoss):
    """Base class of losses that must know which steps are there, and which have a label.

    A subclass writes `elements`. It is never negative. Missing labels are 0 in `y_true` and False
    in `labelled`.
    """

    reads_masks = True
    nonnegative = True

    @abstractmethod
    def elements(self, y_true: Any, y_pred: Any, labelled: Any, present: Any) -> Any:
        """Returns a loss for each row `(batch,)`, or for each step `(batch, steps)`.

        Args:
            y_true: Labels.
            y_pred: Predictions `(batch, steps, ...)`.
            labelled: Optional boolean tensor in the shape of the labels; `None` for all.
            present: Optional boolean tensor `(batch, steps)`, the padding mask; `None` for all.
        """

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self.elements(y_true, y_pred, None, getattr(y_pred, "_keras_mask", None))


class PartsLoss(SequenceLoss):
    """Base class of losses whose labels and predictions are dicts of tensors.

    A subclass writes `elements`, with one value a row, `faults`, and names its `parts`. A row with
    NaN in one of its parts has no label.
    """

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self.elements(y_true, y_pred, None, None)  # dicts carry no mask
