"""Losses of whole sequences, whose steps depend on one another."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import keras


class SequenceLoss(keras.Loss):
    """Base class of losses that must know which steps are there, and which have a label.

    A subclass writes `elements`. It is never negative. Missing labels are 0 in `y_true` and False
    in `labelled`.
    """

    # Whether labels are class ids, one a step.
    takes_class_ids: ClassVar[bool] = False

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

    def faults(
        self, labels: Any, ignore_class: int | None, prediction_shape: Sequence[int | None]
    ) -> list[tuple[Any, str]]:
        """Returns what is wrong with labels: where, in their shape, and what they must be.

        Where all of them are, by shape or dtype, the first entry of a pair is `True`.

        Args:
            labels: Labels as the user gave them.
            ignore_class: Optional integer that marks missing labels.
            prediction_shape: Tuple, the shape of the predictions.
        """
        del labels, ignore_class, prediction_shape
        return []
