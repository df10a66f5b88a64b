"""Labels as a user gives them, read as tensors."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf


def read(task: str, labels: Any) -> Any:
    """Returns a task's labels as a tensor of numbers.

    Args:
        task: String. The task's name.
        labels: Array or tensor.

    Raises:
        TypeError: If there are none, or if they are a list.
        ValueError: If they do not hold numbers.
    """
    argument = f"`y['{task}']`"
    if labels is None or isinstance(labels, list | tuple):
        advice = (
            f"For an output without a label, compile with `loss={{'{task}': None}}`."
            if labels is None
            else "Write `np.array(...)`."
        )
        raise TypeError(f"{argument} must be an array, received {type(labels).__name__}. {advice}")
    advice = "Missing labels are NaN where float, the head's `ignore_class` in class ids."
    tensor = _convert(argument, labels, f" {advice}")
    if not (tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool):
        raise ValueError(
            f"{argument} must hold numbers, received dtype {tensor.dtype.name}. "
            "Map names to class ids first, for example with `keras.layers.StringLookup`."
        )
    return tensor


def read_parts(task: str, parts: Sequence[str], labels: Any) -> dict[str, Any]:
    """Returns a task's labels in several parts as tensors.

    Args:
        task: String. The task's name.
        parts: The keys that labels must have.
        labels: Dict of arrays or tensors.

    Raises:
        ValueError: If parts are missing, or are no arrays of numbers.
    """
    if not isinstance(labels, Mapping) or set(labels) != set(parts):
        received = list(labels) if isinstance(labels, Mapping) else type(labels).__name__
        raise ValueError(
            f"`y['{task}']` must be a dict with the keys {list(parts)}, received {received}."
        )
    return {key: _read_part(f"`y['{task}']['{key}']`", labels[key]) for key in parts}


def _read_part(argument: str, values: Any) -> Any:
    if isinstance(values, tf.RaggedTensor | tf.SparseTensor):
        raise ValueError(
            f"{argument} must be dense, received {type(values).__name__}. Pad it with -1: "
            "`.to_tensor(-1)` on it, or `padded_batch` on a data set."
        )
    return _convert(argument, values)


def _convert(argument: str, values: Any, advice: str = "") -> Any:
    try:
        return tf.convert_to_tensor(values)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{argument} must be an array of numbers, received {type(values).__name__}: "
            f"{error}{advice}"
        ) from error
