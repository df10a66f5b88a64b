"""Tells methods that an epoch begins."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras


class EpochStart(keras.callbacks.Callback):
    """Calls `on_epoch_begin` of the weighting and the balancing.

    Args:
        methods: List of methods with the hook.
    """

    def __init__(self, methods: Sequence[Any]) -> None:
        super().__init__()
        self._methods = list(methods)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Rolls the methods' per-epoch state over."""
        del epoch, logs
        for method in self._methods:
            method.on_epoch_begin()
