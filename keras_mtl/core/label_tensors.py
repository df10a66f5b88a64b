"""Labels as a user gives them, read as tensors."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf


def read(task: str, labels: Any, ignore_class: int | None = None) -> Any:
    """Returns a task's labels as a tensor of numbers.

    Args:
        task: String. The task's name.
        labels: Array or tensor.
        ignore_class: Optional integer that marks missing labels.

    Raises:
        TypeError: If there are none, or if they are a list.
        ValueError: If they are ragged or sparse, or do not hold numbers.
    """
    argument = f"`y['{task}']`"
    if labels is None or isinstance(labels, list | tuple):
        advice = (
            f"For an output without a label, compile with `loss={{'{task}': None}}`."
            if labels is None
            else "Write `np.array(...)`."
        )
        raise TypeError(f"{argument} must be an array, received {type(labels).__name__}. {advice}")
    _check_dense(argument, labels, ignore_class or 0, "float('nan')")
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
    _check_dense(argument, values, -1, "-1")
    return _convert(argument, values)


def _check_dense(argument: str, values: Any, filler: int, filler_of_floats: str) -> None:
    if isinstance(values, tf.RaggedTensor | tf.SparseTensor):
        text = filler_of_floats if values.dtype.is_floating else str(filler)
        raise ValueError(
            f"{argument} must be dense, received {type(values).__name__}. Pad it with {text}: "
            f"`.to_tensor({text})` on it, or `padded_batch` on a data set."
        )


def _convert(argument: str, values: Any, advice: str = "") -> Any:
    try:
        return tf.convert_to_tensor(values)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{argument} must be an array of numbers, received {type(values).__name__}: "
            f"{error}{advice}"
        ) from error
