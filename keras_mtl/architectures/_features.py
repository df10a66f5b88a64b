"""Features of stages: what can be mixed, their padding, and their number of positions."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mtl.architectures._columns import one_tensor


def with_channels(features: Any, stage: keras.layers.Layer, architecture: str) -> Any:
    """Returns `features`, which must be one tensor of floats with a known number of channels.

    Raises:
        ValueError: If a stage has returned something else.
    """
    features = one_tensor(features, stage, architecture)
    shape = tuple(features.shape)
    if len(shape) < 2 or shape[-1] is None or not keras.backend.is_float_dtype(features.dtype):
        raise ValueError(
            f"Stages of {architecture} must return floats of shape (batch, ..., channels) with a "
            f"known number of channels, stage '{stage.name}' returns {features.dtype} of shape "
            f"{shape}. Let the stage end with a layer that gives channels, or join it with the "
            "next one."
        )
    return features


def position_mask(mask: Any, features: Any) -> Any:
    """Returns a padding mask for every position of `features`.

    Args:
        mask: Optional tensor `(batch, steps)`, true where there is data.
        features: Tensor `(batch, steps, ..., channels)`.

    Returns:
        A boolean tensor of the shape of `features` without channels. `None` without a mask, or
        where features have no steps.
    """
    if mask is None or len(features.shape) < 3:
        return None
    while len(mask.shape) < len(features.shape) - 1:
        mask = ops.expand_dims(mask, -1)
    return ops.broadcast_to(ops.cast(mask, "bool"), ops.shape(features)[:-1])


def without_padding(features: Any, positions: Any) -> Any:
    """Returns `features` with 0 where `positions`, from `position_mask`, are padding."""
    # `where` and not a product: padding may hold NaN.
    if positions is None:
        return features
    return ops.where(ops.expand_dims(positions, -1), features, ops.zeros_like(features))


def resample(x: Any, axis: int, size: Any) -> Any:
    """Returns `x` with `size` positions on an axis, by adaptive max pooling.

    Args:
        x: Tensor.
        axis: Integer >= 0.
        size: Integer >= 1, or a scalar tensor where it is known in the step only.
    """
    length = ops.shape(x)[axis]
    known = isinstance(length, int) and isinstance(size, int)
    if known and length == size:
        return x
    if known and length % size == 0:
        shape = list(ops.shape(x))
        shape[axis : axis + 1] = [size, length // size]
        return ops.max(ops.reshape(x, shape), axis=axis + 1)
    if known:
        # With NumPy, for compiled code must know the width of the windows.
        windows = _windows(length, size, np)
    else:
        # A product of two lengths may be more than 32 bits hold.
        windows = _windows(ops.cast(length, "int64"), ops.cast(size, "int64"), ops)
    return ops.max(ops.take(x, windows, axis=axis), axis=axis + 1)


def _windows(length: Any, size: Any, xp: Any) -> Any:
    """Returns the positions in each of `size` windows over `length`, the last one repeated."""
    position = xp.arange(size)
    first = position * length // size
    last = ((position + 1) * length - 1) // size
    width = xp.max(last - first) + 1
    return xp.minimum(first[:, None] + xp.arange(width), last[:, None])
