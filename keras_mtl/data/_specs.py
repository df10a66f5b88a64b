"""What the specs of a data set tell of its tensors."""

from typing import Any

import keras
import tensorflow as tf

_SMALL = 2**16  # bytes


def alike(first: Any, other: Any) -> bool:
    """Whether two structures of specs can be of one and the same tensors."""
    try:
        tf.nest.assert_same_structure(first, other)
    except (TypeError, ValueError):
        return False
    pairs = zip(tf.nest.flatten(first), tf.nest.flatten(other), strict=True)
    return all(a.is_compatible_with(b) for a, b in pairs)


def narrowed(first: Any, other: Any) -> Any:
    """Returns what two specs of the same tensors tell together."""
    return tf.TensorSpec(first.shape.merge_with(other.shape), first.dtype)


def open_axes(spec: Any) -> set[int]:
    """Returns the axes that have no fixed length."""
    return {axis for axis, length in enumerate(spec.shape) if length is None}


def is_dense(spec: Any) -> bool:
    """Whether it is a dense tensor of known rank."""
    return isinstance(spec, tf.TensorSpec) and spec.shape.rank is not None


def is_slice_of_ragged(spec: Any) -> bool:
    """Whether it is a tensor that its spec calls ragged: a row of a ragged tensor."""
    return isinstance(spec, tf.RaggedTensorSpec) and spec.ragged_rank == 0


def varies(spec: tf.TensorSpec) -> bool:
    """Whether an axis has no fixed length."""
    return not spec.shape.is_fully_defined()


def is_small(specs: Any) -> bool:
    """Whether a row has a fixed shape, and few bytes."""
    flat = tf.nest.flatten(specs)
    if any(varies(spec) for spec in flat):
        return False
    return sum(spec.shape.num_elements() * spec.dtype.size for spec in flat) <= _SMALL


def text(spec: Any) -> str:
    """Writes dtypes and shapes of a structure of specs."""

    def leaf(part: Any) -> str:
        return f"{part.dtype.name}{part.shape}" if hasattr(part, "dtype") else str(part)

    return str(keras.tree.map_structure(leaf, spec)).replace("'", "")
