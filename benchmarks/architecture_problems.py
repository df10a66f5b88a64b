"""Problems on which architectures are compared: data, network of a given width, tasks.

`synthetic-P` is the data of J. Ma et al. 2018, Modeling task relationships in multi-task learning
with multi-gate mixture-of-experts, section 3.2, https://doi.org/10.1145/3219819.3220007, with
correlation P between two regression tasks: `y_k = w_k x + sum_i sin(a_i w_k x + b_i) + noise`,
where `w_1 = u_1` and `w_2 = P u_1 + sqrt(1 - P^2) u_2` for orthogonal unit vectors u. Dimension 100
as there; a and b are 10 standard normal draws and the noise has variance 0.01; 10,000 rows train.

`funnel` makes a sequence of the same numbers (P = 0.9), for the architectures that need one: a row
is a `click` where y_1 is in its upper 40 %, and a `purchase` where it is a click and y_2 is above
its median. `multimnist` has the canvases of `multimnist_recipes.py`, recipe `sener`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable

import keras
import multimnist_recipes as recipes
import numpy as np
import tensorflow as tf
from keras import layers

import keras_mtl

DIMENSION, SINES, BATCH = 100, 10, 256
ROWS = {"train": 10_000, "validation": 5_000, "test": 5_000}


class Rows:
    """Arrays in memory, from which batches are gathered.

    Args:
        x: Array `(rows, channels)`.
        y: Dict from task to an array `(rows,)`.
    """

    def __init__(self, x: np.ndarray, y: dict[str, np.ndarray]) -> None:
        self.x, self.y = x, y

    def batches(self, tasks: Iterable[str], seed: int | None = None) -> tf.data.Dataset:
        """Returns the batches of an epoch, in a new order each time if there is a seed."""
        x, y = tf.constant(self.x), {task: tf.constant(self.y[task]) for task in tasks}

        def gather(rows: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
            return tf.gather(x, rows), {task: tf.gather(y[task], rows) for task in y}

        rows = tf.data.Dataset.range(len(x))
        if seed is not None:
            rows = rows.shuffle(len(x), seed=seed)
        return rows.batch(BATCH).map(gather).prefetch(2)


@dataclasses.dataclass(frozen=True)
class Problem:
    """Data, network and training of one comparison."""

    splits: dict[str, object]  # each has `batches(tasks, seed)`
    inputs: Callable[[], keras.KerasTensor]
    trunk: Callable[[int], list[layers.Layer]]  # stages, from a width
    tasks: dict[str, object]
    metric: str  # what is reported, as the logs name it without the task
    factor: float  # of the metric as it is reported
    higher_is_better: bool
    width: int  # of `hard_sharing`, which sets the number of parameters
    learning_rates: tuple[float, ...]
    epochs: int


def directions(correlation: float, random: np.random.Generator) -> np.ndarray:
    """Returns two unit vectors with that cosine, one a row."""
    orthogonal, _ = np.linalg.qr(random.normal(size=(DIMENSION, 2)))
    first, second = orthogonal.T
    return np.stack([first, correlation * first + np.sqrt(1 - correlation**2) * second])


def synthetic_numbers(correlation: float, rows: dict[str, int]) -> dict[str, tuple]:
    """Returns inputs `(rows, dimension)` and both outputs `(2, rows)`, split by split."""
    random = np.random.default_rng(0)
    weights = directions(correlation, random)
    slopes, shifts = random.normal(size=(2, SINES))
    found = {}
    for split, count in rows.items():
        x = random.normal(size=(count, DIMENSION))
        z = weights @ x.T
        y = z + np.sin(slopes * z[..., None] + shifts).sum(axis=-1)
        found[split] = x.astype("float32"), y + 0.1 * random.normal(size=y.shape)
    return found


def funnel_labels(y: np.ndarray) -> dict[str, np.ndarray]:
    """Makes clicks of the first row of `y`, and purchases of clicks and the second."""
    click = y[0] > np.quantile(y[0], 0.6)
    purchase = click & (y[1] > np.median(y[1]))
    return {"click": click.astype("int32"), "purchase": purchase.astype("int32")}


def dense_trunk(width: int) -> list[layers.Layer]:
    """Two dense stages."""
    return [layers.Dense(width, activation="relu", name=f"stage{index}") for index in (1, 2)]


def dense_problem(splits: dict[str, Rows], tasks: dict[str, object], **reported: object) -> Problem:
    """Returns a problem on rows of numbers."""
    tower = layers.Dense(16, activation="relu")
    return Problem(
        splits,
        lambda: keras.Input((DIMENSION,), name="x"),
        dense_trunk,
        {name: keras_mtl.Task(tower=tower, **task) for name, task in tasks.items()},
        width=64,
        learning_rates=(3e-3, 1e-2, 3e-2),
        epochs=30,
        **reported,
    )


def synthetic(correlation: float, rows: dict[str, int]) -> Problem:
    """Returns the two regressions of J. Ma et al. 2018; reported is the mean squared error."""
    splits = {
        split: Rows(x, {"first": y[0].astype("float32"), "second": y[1].astype("float32")})
        for split, (x, y) in synthetic_numbers(correlation, rows).items()
    }
    tasks = {name: {"head": keras_mtl.heads.Regression()} for name in ("first", "second")}
    return dense_problem(splits, tasks, metric="loss", factor=1.0, higher_is_better=False)


def funnel(rows: dict[str, int]) -> Problem:
    """Returns clicks and purchases; reported is the area under the ROC curve, in percent."""
    splits = {
        split: Rows(x, funnel_labels(y)) for split, (x, y) in synthetic_numbers(0.9, rows).items()
    }
    head = keras_mtl.heads.BinaryClassification()
    tasks = {
        name: {"head": head, "metrics": [keras.metrics.AUC(name="auc")]}
        for name in ("click", "purchase")
    }
    return dense_problem(splits, tasks, metric="auc", factor=100.0, higher_is_better=True)


def convolution(filters: int, name: str) -> keras.Sequential:
    """A stage that halves both sides."""
    parts = [layers.Conv2D(filters, 3, padding="same", activation="relu"), layers.MaxPooling2D()]
    return keras.Sequential(parts, name=name)


def image_stem() -> keras.KerasTensor:
    """Returns features of 12x12, which gates can read better than pixels."""
    image = keras.Input((28, 28, 1), name="image")
    x = layers.Conv2D(10, 5, activation="relu", name="stem")(image)
    return layers.MaxPooling2D(name="stem_pooling")(x)


def multimnist(path: str, limit: int | None) -> Problem:
    """Returns two overlaid digits; reported is the accuracy in percent."""
    tower = keras.Sequential([layers.Flatten(), layers.Dense(50, activation="relu")])
    task = keras_mtl.Task(keras_mtl.heads.Classification(10), tower=tower)
    return Problem(
        recipes.load_splits(path, recipes.RECIPES["sener"], limit),
        image_stem,
        lambda width: [convolution(width, "stage1"), convolution(2 * width, "stage2")],
        {"left": task, "right": task},
        metric="accuracy",
        factor=100.0,
        higher_is_better=True,
        width=24,
        learning_rates=(1e-3, 3e-3),
        epochs=5,
    )


def problems(path: str | None, *, quick: bool) -> dict[str, Callable[[], Problem]]:
    """Returns for each name a function that makes the problem."""
    rows = dict.fromkeys(ROWS, 600) if quick else ROWS
    found = {
        f"synthetic-{correlation}": functools.partial(synthetic, correlation, rows)
        for correlation in (0.5, 0.9, 1.0)
    }
    found["funnel"] = functools.partial(funnel, rows)
    if path is not None:
        found["multimnist"] = functools.partial(multimnist, path, 600 if quick else None)
    return found
