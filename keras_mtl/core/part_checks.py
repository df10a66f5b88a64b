"""Checks labels that have several parts, given as a dict."""

from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from keras_mtl.core.parts_loss import PartsLoss


def faults(task: str, loss: PartsLoss, labels: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yields conditions on labels: a message, the values, and a mask of those that break it.

    Args:
        task: String. The task's name.
        loss: `PartsLoss`.
        labels: The task's labels as the user gave them.

    Raises:
        ValueError: If parts are missing, or have shapes or dtypes that do not fit.
    """
    if not isinstance(labels, Mapping) or set(labels) != set(loss.parts):
        received = list(labels) if isinstance(labels, Mapping) else type(labels).__name__
        raise ValueError(
            f"`y['{task}']` must be a dict with the keys {list(loss.parts)}, received {received}."
        )
    tensors = {key: _tensor(f"`y['{task}']['{key}']`", labels[key]) for key in loss.parts}
    for key, bad, message in loss.part_faults(tensors):
        argument, values = f"`y['{task}']['{key}']`", tensors[key]
        if bad is True:
            received = f"shape {tuple(values.shape)}, dtype {values.dtype.name}"
            raise ValueError(f"{argument} {message} Received {received}.")
        yield f"{argument} {message}", values, bad


def _tensor(argument: str, values: Any) -> Any:
    if isinstance(values, tf.RaggedTensor | tf.SparseTensor):
        raise ValueError(
            f"{argument} must be dense, received {type(values).__name__}. Pad it with -1: "
            "`.to_tensor(-1)` on it, or `padded_batch` on a data set."
        )
    try:
        return tf.convert_to_tensor(values)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{argument} must be an array of numbers, received {type(values).__name__}: {error}"
        ) from error
