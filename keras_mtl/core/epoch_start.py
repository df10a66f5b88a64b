"""Tells methods that an epoch begins, and puts what saves the model behind what it must save."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

SAVERS = (keras.callbacks.BackupAndRestore, keras.callbacks.ModelCheckpoint)


def savers_last(callbacks: Sequence[Any]) -> list[Any]:
    """Moves what saves the model behind the last callback that keeps its state in the model.

    They save at the end of an epoch: before such a callback has seen it, the epoch would be lost.

    Args:
        callbacks: List of callbacks; those with `state_in_model` must be saved.
    """
    found = [index for index, part in enumerate(callbacks) if hasattr(part, "state_in_model")]
    end = found[-1] + 1 if found else 0
    savers = [part for part in callbacks[:end] if isinstance(part, SAVERS)]
    others = [part for part in callbacks[:end] if not isinstance(part, SAVERS)]
    return [*others, *savers, *callbacks[end:]]


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
