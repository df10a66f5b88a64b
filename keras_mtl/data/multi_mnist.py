"""MultiMNIST and its relatives: two small images on one canvas, a task each."""

import zlib
from collections.abc import Iterator, Mapping
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from keras_mtl.core import checks
from keras_mtl.data import _tfds

Images = tuple[np.ndarray, np.ndarray]


def multi_mnist(
    left: Mapping[str, Images],
    right: Mapping[str, Images] | None = None,
    *,
    canvas: int = 36,
    size: int = 28,
    left_offset: tuple[int, int] = (0, 0),
    right_offset: tuple[int, int] = (6, 6),
    copies: int = 1,
    seed: int = 0,
    name: str = "multi_mnist",
    data_dir: Any = None,
) -> Any:
    """Lays two MNIST-like images on one canvas, as a TensorFlow Datasets builder.

    Each left image is paired with a random right one of its split, so that no image is in two
    splits. Where they overlap the brighter pixel wins. The defaults are the recipe of Sener and
    Koltun. `from_tfds(builder, split, inputs="image", targets={"left": "left", "right":
    "right"})` stores the data set and reads it; the same arrays and arguments find it stored.
    Needs the extra `keras_mtl[tfds]`.

    Args:
        left: Dict from split to images `(rows, side, side)`, bytes, and class ids `(rows,)`.
        right: Optional dict as `left`, for images of another kind such as Fashion-MNIST; by
            default both come from `left`.
        canvas: Integer >= 1. Pixels a side of the canvas.
        size: Integer >= 1. Pixels a side after resizing, which takes the nearest pixel.
        left_offset: Lowest and highest distance of the left image from the upper and from the
            left edge, in pixels; both are drawn for each canvas.
        right_offset: The same for the right image.
        copies: Integer >= 1. How many canvases each left image comes on.
        seed: Integer >= 0. Makes pairs and offsets repeatable.
        name: String. Name of the data set.
        data_dir: Optional path where data sets are stored, as in `tfds.load`.

    Returns:
        A `tfds.core.DatasetBuilder` with the features `image` (`(size, size, 1)`, bytes), `left`
        and `right` (class labels).

    Raises:
        ImportError: If tensorflow_datasets is not installed.
        TypeError: If an argument has another type.
        ValueError: If arrays do not have these shapes or dtypes, `right` has other splits than
            `left`, or an image at its offset does not fit on the canvas.

    Example:

    >>> digits = np.zeros((4, 28, 28), "uint8"), np.arange(4)
    >>> builder = keras_mtl.data.multi_mnist({"train": digits, "test": digits})
    >>> builder.info.features["image"].shape
    (28, 28, 1)
    >>> builder.info.features["left"].num_classes
    4

    Reference:
        Sabour, Frosst, Hinton 2017, Dynamic routing between capsules, arXiv:1710.09829. Sener,
        Koltun 2018, Multi-task learning as multi-objective optimization, arXiv:1810.04650. X. Lin
        et al. 2019, Pareto multi-task learning, arXiv:1912.12854, is `size=36, copies=2,
        left_offset=(0, 4), right_offset=(4, 8)`.
        Differs from the paper: the authors' own pairs and offsets are not public.
    """
    sides = {"left": _read("left", left), "right": _read("right", left if right is None else right)}
    if list(sides["left"]) != list(sides["right"]):
        raise ValueError(
            f"`right` must have the splits of `left`, {list(sides['left'])}, received "
            f"{list(sides['right'])}."
        )
    canvas = checks.positive_integer("canvas", canvas)
    size = checks.positive_integer("size", size)
    copies = checks.positive_integer("copies", copies)
    seed = checks.nonnegative_integer("seed", seed)
    offsets = {
        side: _offset(f"{side}_offset", offset, canvas, sides[side])
        for side, offset in {"left": left_offset, "right": right_offset}.items()
    }
    layout = Layout(canvas, size, offsets, copies)
    splits = {
        split: Canvases({side: sides[side][split] for side in sides}, layout, (seed, index))
        for index, split in enumerate(sides["left"])
    }
    return _builder(name, splits, layout, data_dir)


class Layout(NamedTuple):
    """How canvases are made; as in `multi_mnist`."""

    canvas: int
    size: int
    offsets: dict[str, tuple[int, int]]
    copies: int


class Canvases:
    """The numbered examples of one split, made as they are read.

    Args:
        sides: Dict of images and labels, `left` and `right`.
        layout: A `Layout`.
        seed: Tuple of integers.
    """

    def __init__(self, sides: dict[str, Images], layout: Layout, seed: tuple[int, int]) -> None:
        self.sides, self._layout, self._seed = sides, layout, seed

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields number and example."""
        random = np.random.default_rng(self._seed)
        lefts = np.repeat(np.arange(len(self.sides["left"][1])), self._layout.copies)
        rights = random.integers(len(self.sides["right"][1]), size=len(lefts))
        for number, rows in enumerate(zip(lefts, rights, strict=True)):
            yield number, self._example(dict(zip(self.sides, rows, strict=True)), random)

    def checksum(self, split: str) -> int:
        """Returns a number that changes with the examples, and with the name of their split."""
        found = zlib.crc32(repr((split, self._layout, self._seed)).encode())
        for array in (array for side in self.sides.values() for array in side):
            found = zlib.crc32(np.ascontiguousarray(array), found)
        return found

    def _example(self, rows: dict[str, int], random: np.random.Generator) -> dict[str, Any]:
        canvas = np.zeros((self._layout.canvas, self._layout.canvas), "uint8")
        for side, row in rows.items():
            image = self.sides[side][0][row]
            top, start = random.integers(*self._layout.offsets[side], 2, endpoint=True)
            window = canvas[top : top + len(image), start : start + len(image)]
            np.maximum(window, image, out=window)
        labels = {side: int(self.sides[side][1][row]) for side, row in rows.items()}
        return {"image": _resized(canvas, self._layout.size)[..., None], **labels}


def _resized(canvas: np.ndarray, size: int) -> np.ndarray:
    """Takes the pixel under the centre of each new one."""
    picked = ((np.arange(size) + 0.5) * len(canvas) / size).astype(int)
    return canvas[np.ix_(picked, picked)]


def _builder(name: str, splits: dict[str, Canvases], layout: Layout, data_dir: Any) -> Any:
    tfds = _tfds.tensorflow_datasets()
    labels = {
        side: tfds.features.ClassLabel(
            num_classes=max(int(split.sides[side][1].max()) for split in splits.values()) + 1
        )
        for side in layout.offsets
    }
    image = tfds.features.Image(shape=(layout.size, layout.size, 1))
    return tfds.dataset_builders.AdhocBuilder(
        name=name,
        # Other arrays, names of splits or arguments are stored elsewhere.
        config="_".join(f"{split.checksum(name):08x}" for name, split in splits.items()),
        version="1.0.0",
        features=tfds.features.FeaturesDict({"image": image, **labels}),
        split_datasets=splits,
        data_dir=data_dir,
        description="Two small images on one canvas.",
        disable_shuffling=True,
    )


def _read(argument: str, splits: Any) -> dict[str, Images]:
    if not isinstance(splits, Mapping) or not splits:
        kind = ValueError if isinstance(splits, Mapping) else TypeError
        raise kind(
            f"`{argument}` must be a dict from split to images and labels, with one split at "
            f"least, received {checks.describe(splits)}. Write `{{'train': (images, labels)}}`."
        )
    return {split: _pair(f"{argument}['{split}']", pair) for split, pair in splits.items()}


def _pair(argument: str, pair: Any) -> Images:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        kind = ValueError if isinstance(pair, tuple | list) else TypeError
        raise kind(
            f"`{argument}` must be a pair of images and their class ids, received "
            f"{checks.describe(pair)}. Write `(images, labels)`."
        )
    images, labels = (np.asarray(array) for array in pair)
    if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1] != images.shape[2]:
        raise ValueError(
            f"`{argument}` must have images of shape (rows, side, side) and dtype uint8, received "
            f"{images.shape} and {images.dtype}."
        )
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu" or not len(labels):
        raise ValueError(
            f"`{argument}` must have one class id for each of its images, at least one, received "
            f"labels of shape {labels.shape} and dtype {labels.dtype} for {len(images)} images."
        )
    return images, labels


def _offset(argument: str, offset: Any, canvas: int, side: dict[str, Images]) -> tuple[int, int]:
    widest = max(images.shape[1] for images, _ in side.values())
    fits = (
        isinstance(offset, tuple | list)
        and len(offset) == 2
        and all(isinstance(end, Integral) for end in offset)
        and 0 <= offset[0] <= offset[1] <= canvas - widest
    )
    if not fits:
        raise ValueError(
            f"`{argument}` must be the lowest and the highest offset, integers from 0 to "
            f"{canvas - widest} so that images of {widest} pixels fit on a `canvas` of {canvas}, "
            f"received {checks.describe(offset)}."
        )
    return int(offset[0]), int(offset[1])
