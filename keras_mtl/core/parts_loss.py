"""Losses of labels in several parts, which a row has as a dict."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from keras_mtl.core.sequence_loss import SequenceLoss


class PartsLoss(SequenceLoss):
    """Base class of losses whose labels and predictions are dicts of tensors.

    A subclass writes `elements`, with one value a row, and `part_faults`. It is never negative. A
    row with NaN in one of its parts has no label.
    """

    @abstractmethod
    def part_faults(self, labels: Mapping[str, Any]) -> list[tuple[str, Any, str]]:
        """Returns what is wrong with labels: in which part, where, and what it must be.

        Where all of a part is wrong, by shape or dtype, the second entry is `True`, and nothing
        after it is looked at.

        Args:
            labels: Dict of tensors as the user gave them, with the keys of `parts`.
        """

    @property
    @abstractmethod
    def parts(self) -> tuple[str, ...]:
        """The keys that labels must have."""
