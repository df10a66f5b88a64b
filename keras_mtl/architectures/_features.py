"""Features of stages: what can be mixed along the channels, and padding over positions."""

from typing import Any

import keras
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
