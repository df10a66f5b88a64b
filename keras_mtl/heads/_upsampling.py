"""Predictions finer than the features: linear interpolation by an integer factor."""

from typing import Any

from keras import ops

# Keras' own `resize` takes no unknown sizes under XLA, and its gradient adds in any order on a GPU.


def upsample(values: Any, factor: int, mask: Any = None) -> Any:
    """Makes the axes between batch and channels `factor` times as long, by interpolation.

    Args:
        values: Tensor `(batch, ..., channels)`.
        factor: Integer >= 1.
        mask: Optional boolean tensor `(batch, steps)` or of more axes, True where there is data;
            padding leaves its neighbours as they are without it.

    Returns:
        A tensor `(batch, ..., channels)`; as bilinear `keras.ops.image.resize` for images.

    Example:

    >>> keras_mtl.heads._upsampling.upsample(np.array([[[0.0], [4.0]]]), 2)[0, :, 0]
    [0.0, 1.0, 3.0, 4.0]
    """
    if factor == 1:
        return values
    for axis in range(1, len(values.shape) - 1):
        values = _interpolate(values, factor, axis, mask)
        if mask is not None and axis < len(mask.shape):
            mask = ops.repeat(mask, factor, axis=axis)
    return values


def upsample_mask(mask: Any, factor: int) -> Any:
    """Repeats a padding mask `(batch, ...)` as `upsample` lengthens the values under it."""
    for axis in range(1, len(mask.shape)) if factor > 1 else ():
        mask = ops.repeat(mask, factor, axis=axis)
    return mask


def _interpolate(values: Any, factor: int, axis: int, mask: Any) -> Any:
    before, after = _neighbours(values, axis, mask)
    phases = []
    for phase in range(factor):
        # The centres of the fine pixels lie evenly around that of the coarse one.
        offset = (phase + 0.5) / factor - 0.5
        neighbour = after if offset > 0 else before
        phases.append(values + abs(offset) * (neighbour - values))
    shape = ops.shape(values)
    longer = (*shape[:axis], shape[axis] * factor, *shape[axis + 1 :])
    return ops.reshape(ops.stack(phases, axis=axis + 1), longer)


def _neighbours(values: Any, axis: int, mask: Any) -> list[Any]:
    neighbours = _shifted(values, axis)
    if mask is None:
        return neighbours
    present = ops.cast(mask, "bool")
    while len(present.shape) < len(values.shape):
        present = ops.expand_dims(present, -1)
    there = _shifted(present, axis)
    return [ops.where(p, x, values) for p, x in zip(there, neighbours, strict=True)]


def _shifted(values: Any, axis: int) -> list[Any]:
    """Returns what stands before and after each place; at the ends, the place itself."""
    before = [_part(values, axis, 0, 1), _part(values, axis, 0, -1)]
    after = [_part(values, axis, 1, None), _part(values, axis, -1, None)]
    return [ops.concatenate(parts, axis=axis) for parts in (before, after)]


def _part(values: Any, axis: int, start: int, stop: int | None) -> Any:
    return values[(slice(None),) * axis + (slice(start, stop),)]
