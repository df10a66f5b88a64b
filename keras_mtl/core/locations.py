"""Which location of feature maps is to find which object."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

# The parameters of the paper: how far from the middle of its object a location may lie, and how
# far its object may reach from it unless it is the coarsest map, both in cells of the map.
RADIUS = 1.5
REACH = 8.0


class Locations(NamedTuple):
    """The centres of the cells of feature maps, the finest first, in relative coordinates.

    Args:
        centers: Array `(locations, 2)`, x and y.
        cells: Array `(locations, 2)`, width and height of a cell.
        shortest: Array `(locations,)`. Objects that reach no farther are left to finer maps.
        farthest: Array `(locations,)`. Objects that reach farther are left to coarser maps.
    """

    centers: Any
    cells: Any
    shortest: Any
    farthest: Any


class Targets(NamedTuple):
    """What each location is to find.

    Args:
        boxes: Tensor `(batch, locations, 4)`; the whole image where there is no object.
        labels: Integer tensor `(batch, locations)`; -1 where there is no object.
        centerness: Tensor `(batch, locations)`, 1 in the middle of the object and 0 at its edge.
    """

    boxes: Any
    labels: Any
    centerness: Any


def locations(grids: Sequence[tuple[int, int]]) -> Locations:
    """Returns the locations of feature maps.

    >>> keras_mtl.core.locations.locations([(1, 2)]).centers
    [[0.25, 0.5], [0.75, 0.5]]

    Args:
        grids: List of `(height, width)`, the finest first.
    """
    parts = []
    for index, (height, width) in enumerate(grids):
        y, x = np.mgrid[:height, :width].reshape(2, -1)
        finer = grids[index - 1] if index else None
        # The reach at which a finer map hands an object on, in cells of this map.
        shortest = REACH * min(height / finer[0], width / finer[1]) if finer else 0.0
        farthest = REACH if index + 1 < len(grids) else np.inf
        parts.append(
            Locations(
                np.stack([(x + 0.5) / width, (y + 0.5) / height], axis=-1),
                np.broadcast_to([1 / width, 1 / height], (height * width, 2)),
                np.full(height * width, shortest),
                np.full(height * width, farthest),
            )
        )
    joined = (np.concatenate(part).astype("float32") for part in zip(*parts, strict=True))
    return Locations(*joined)


def assign(boxes: Any, labels: Any, at: Locations) -> Targets:
    """Returns what each location is to find: the smallest object whose middle it lies near.

    Args:
        boxes: Tensor `(batch, max_boxes, 4)`, relative.
        labels: Integer tensor `(batch, max_boxes)`; -1 where there is no object.
        at: `Locations`.

    Reference:
        Tian, Shen, Chen, He 2019, FCOS, arXiv:1904.01355, eq. 1 and 3, sections 3.1 and 3.2;
        locations near the middle only: arXiv:2006.09214, section 2.
    """
    boxes, labels = _with_one_more(boxes, labels)
    low, high = boxes[:, None, :, :2], boxes[:, None, :, 2:]
    centers, cells = at.centers[:, None], at.cells[:, None]
    before, after = centers - low, high - centers
    inside = ops.all(ops.minimum(before, after) > 0, axis=-1)
    near = ops.all(ops.abs(before - after) / 2 < RADIUS * cells, axis=-1)
    reach = ops.max(ops.maximum(before, after) / cells, axis=-1)
    fits = ops.logical_and(reach > at.shortest[:, None], reach <= at.farthest[:, None])
    candidate = ops.logical_and(ops.logical_and(inside, near), fits)
    candidate = ops.logical_and(candidate, ops.expand_dims(labels, 1) >= 0)
    sides = high - low
    area = sides[..., 0] * sides[..., 1]
    index = ops.argmin(ops.where(candidate, area, np.inf), axis=-1)
    found = ops.any(candidate, axis=-1)
    chosen = ops.take_along_axis(boxes, ops.expand_dims(index, -1), axis=1)
    # Where there is none, a box with an area, by which one can divide.
    image = np.array([0, 0, 1, 1], "float32")
    chosen = ops.where(ops.expand_dims(found, -1), chosen, image)
    labels = ops.where(found, ops.take_along_axis(labels, index, axis=1), -1)
    return Targets(chosen, labels, ops.where(found, _centerness(chosen, at.centers), 0.0))


def _with_one_more(boxes: Any, labels: Any) -> tuple[Any, Any]:
    """Adds a box that is none: a batch may have no boxes at all, of which none is the smallest."""
    return (
        ops.pad(boxes, [[0, 0], [0, 1], [0, 0]]),
        ops.pad(labels, [[0, 0], [0, 1]], constant_values=-1),
    )


def _centerness(boxes: Any, centers: Any) -> Any:
    """Returns sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)), for centres inside the boxes."""
    before, after = centers - boxes[..., :2], boxes[..., 2:] - centers
    # A location without an object may lie on the edge of the image at most.
    ratio = ops.minimum(before, after) / ops.maximum(before, after)
    ratio = ops.maximum(ratio, 0.0)
    return ops.sqrt(ratio[..., 0] * ratio[..., 1])
