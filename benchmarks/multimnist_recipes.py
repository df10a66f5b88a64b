"""MultiMNIST after two recipes of the literature: canvases of two digits, and the network.

`sener` is Sener, Koltun 2018, Multi-task learning as multi-objective optimization,
arXiv:1810.04650. As in github.com/isl-org/MultiObjectiveOptimization: a canvas of 36x36 for each
digit (60,000 / 10,000), the second digit 6 pixels down and right, the brighter pixel wins,
nearest-neighbour resize to 28x28, standardised; LeNet with heads 50-50-10; a learning rate that
falls to 0.85 of itself with each tenth of the training. SGD with momentum 0.9 is one of the three
optimizers of that code, 256 the batch of its sample file; its settings for MultiMNIST are not
public. Differs from it: there, dropout masks in trunk and heads are not rescaled, so activations
double in evaluation; here there is no dropout.

`pareto` is X. Lin, Zhen, Li, Zhang, Kwong 2019, Pareto multi-task learning, arXiv:1912.12854. As in
github.com/Xi-L/ParetoMTL: two canvases of 36x36 for each digit (120,000 / 20,000), the first
convolution 9x9, heads 50-10; SGD with momentum 0.9, a learning rate that halves with each 0.15 of
the training, batches of 256. The generator of its canvases is not public. Here each digit moves by
up to 4 pixels from the middle, the left one up and left, the right one down and right, the brighter
pixel wins, and pixels lie between 0 and 1.

Both train for 100 epochs there. The rate falls at parts of the training, so fewer epochs keep the
shape, and want a larger rate.
"""

import dataclasses
import zlib
from collections.abc import Iterable

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import keras_mtl

CANVAS, BATCH = 36, 256

Digits = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Data, network and training of one experiment."""

    copies: int  # canvases for each digit image
    left: tuple[int, int]  # lowest and highest offset of the left digit, on both axes
    right: tuple[int, int]
    size: int  # pixels a side that the network sees
    standard: tuple[float, float]  # mean and deviation, of pixels between 0 and 1
    kernel: int  # of the first convolution
    tower: tuple[int, ...]  # dense layers of a task before its classes
    decay: tuple[float, float]  # the part of the training after which the rate falls, by a factor


RECIPES = {
    "sener": Recipe(1, (0, 0), (6, 6), 28, (0.1307, 0.3081), 5, (50,), (0.1, 0.85)),
    "pareto": Recipe(2, (0, 4), (4, 8), 36, (0.0, 1.0), 9, (), (0.15, 0.5)),
}


def load_digits(path: str, limit: int | None = None) -> dict[str, Digits]:
    """Returns images and labels of each split; the last sixth of training is for validation."""
    with np.load(path) as file:
        images, labels = file["x_train"][:limit], file["y_train"][:limit]
        test = file["x_test"][:limit], file["y_test"][:limit]
    cut = len(images) - len(images) // 6
    return {
        "train": (images[:cut], labels[:cut]),
        "validation": (images[cut:], labels[cut:]),
        "test": test,
    }


def place(canvases: np.ndarray, digits: np.ndarray, offsets: np.ndarray) -> None:
    """Lays a digit on each canvas at its offset; the brighter pixel wins."""
    side = digits.shape[1]
    for top, start in np.unique(offsets, axis=0):
        rows = np.flatnonzero((offsets == (top, start)).all(axis=1))
        window = np.s_[rows, top : top + side, start : start + side]
        canvases[window] = np.maximum(canvases[window], digits[rows])


def resize(canvases: np.ndarray, size: int) -> np.ndarray:
    """Takes the pixel under the centre of each new one, as `PIL.Image.NEAREST` does."""
    picked = ((np.arange(size) + 0.5) * canvases.shape[1] / size).astype(int)
    return canvases[:, picked][:, :, picked]


def make_canvases(
    digits: Digits, recipe: Recipe, seed: int = 0
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Pairs each digit, as the left one, with random ones; returns canvases and labels."""
    images, labels = digits
    random = np.random.default_rng(seed)
    left = np.repeat(np.arange(len(images)), recipe.copies)
    right = random.integers(len(images), size=len(left))
    canvases = np.zeros((len(left), CANVAS, CANVAS), "uint8")
    for rows, (lowest, highest) in ((left, recipe.left), (right, recipe.right)):
        offsets = random.integers(lowest, highest, (len(rows), 2), endpoint=True)
        place(canvases, images[rows], offsets)
    return resize(canvases, recipe.size), {"left": labels[left], "right": labels[right]}


class Split:
    """Canvases and labels in memory, from which batches are gathered.

    Args:
        images: Array of bytes of shape `(rows, side, side)`.
        labels: Dict from task to an array of classes.
        standard: Mean and deviation of pixels between 0 and 1.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: dict[str, np.ndarray],
        standard: tuple[float, float],
    ) -> None:
        self.checksum = zlib.crc32(images.tobytes())
        self._images, self._standard = tf.constant(images), standard
        self._labels = {task: tf.constant(rows, "int32") for task, rows in labels.items()}

    def __len__(self) -> int:
        return len(self._images)

    def batches(self, tasks: Iterable[str], seed: int | None = None) -> tf.data.Dataset:
        """Returns the batches of an epoch, in a new order each time if there is a seed."""
        mean, deviation = self._standard

        def gather(rows: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
            pixels = tf.cast(tf.gather(self._images, rows), "float32")[..., None] / 255
            labels = {task: tf.gather(self._labels[task], rows) for task in tasks}
            return (pixels - mean) / deviation, labels

        rows = tf.data.Dataset.range(len(self))
        if seed is not None:
            rows = rows.shuffle(len(self), seed=seed)
        return rows.batch(BATCH).map(gather).prefetch(2)


def load_splits(path: str, recipe: Recipe, limit: int | None = None) -> dict[str, Split]:
    """Makes the canvases of each split; they are the same in every run."""
    digits = load_digits(path, limit)
    return {
        split: Split(*make_canvases(rows, recipe, seed), recipe.standard)
        for seed, (split, rows) in enumerate(digits.items())
    }


def build(recipe: Recipe, tasks: Iterable[str]) -> keras_mtl.MultiTaskModel:
    """Builds LeNet with a head for each task."""
    trunk = [
        layers.Conv2D(10, recipe.kernel, activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(20, 5, activation="relu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(50, activation="relu"),
    ]
    tower = keras.Sequential([layers.Dense(units, activation="relu") for units in recipe.tower])
    head = keras_mtl.Task(keras_mtl.heads.Classification(10), tower=tower if recipe.tower else None)
    inputs = keras.Input((recipe.size, recipe.size, 1), name="image")
    return keras_mtl.architectures.hard_sharing(inputs, trunk, dict.fromkeys(tasks, head))


def optimizer(recipe: Recipe, learning_rate: float, steps: int) -> keras.Optimizer:
    """Returns the recipe's optimizer for a training of so many steps."""
    part, factor = recipe.decay
    schedule = keras.optimizers.schedules.ExponentialDecay(
        learning_rate, max(1, round(part * steps)), factor, staircase=True
    )
    return keras.optimizers.SGD(schedule, momentum=0.9)
