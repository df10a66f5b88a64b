"""The trainings of `auxiliary_tasks.py`: what those of one seed share, and how each is judged."""

import dataclasses
import json
import time
from collections.abc import Iterable

import auxiliary_recipes as recipes
import keras
import numpy as np
import tensorflow as tf
from auxiliary_report import NONE

import keras_mtl

tf.get_logger().setLevel("ERROR")  # it warns of retracing because there are many models

ANNEALED = "annealed"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training.

    Args:
        study: String. Name of the recipe.
        tasks: Tuple of strings, the main task first.
        method: String.
        labels: Integer. How many rows have a label of the main task.
        seed: Integer.
    """

    study: str
    tasks: tuple[str, ...]
    method: str
    labels: int
    seed: int

    def __str__(self) -> str:
        return f"{' + '.join(self.tasks)}, {self.labels} labels, {self.method}, seed {self.seed}"


class BestEpoch(keras.callbacks.Callback):
    """Keeps the weights of the epoch with the best score on validation.

    Args:
        task: String. The main task.
        rows: The validation split.
    """

    def __init__(self, task: str, rows: recipes.Rows) -> None:
        super().__init__()
        self._task, self._rows = task, rows
        self.scores: list[float] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        found = measure(self.model, self._task, self._rows)
        if found > max(self.scores, default=-1.0):
            self._weights = self.model.get_weights()
        self.scores.append(found)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        self.model.set_weights(self._weights)


def measure(model: keras_mtl.MultiTaskModel, task: str, rows: recipes.Rows) -> float:
    """Returns the score of one task."""
    predictions = model(rows.inputs, training=False)[task]
    return recipes.score(task, rows, keras.ops.convert_to_numpy(predictions))


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What cells of one seed and amount share.

    Args:
        splits: Dict of rows by split; all labels are there.
        labelled: Array. The training rows whose main label is shown.
        batches: Array `(steps, rows)` of the training rows of each step.
    """

    splits: dict[str, recipes.Rows]
    labelled: np.ndarray
    batches: np.ndarray


def prepare(cell: Cell, path: str | None, epochs: int) -> Prepared:
    """Draws splits, labelled rows and batches, by seed, whatever the method."""
    recipe = recipes.RECIPES[cell.study]
    splits = recipe.load(path, cell.seed)
    random = np.random.default_rng(cell.seed)
    order = recipes.balanced_order(splits["train"].labels[recipe.balanced_by], random)
    labelled = order[: cell.labels]
    batches = recipes.draw_batches(labelled, len(order), epochs, random)
    return Prepared(splits, labelled, batches)


def make_model(cell: Cell) -> keras_mtl.MultiTaskModel:
    """Builds and compiles the model of a cell; trunk and main head start alike for all methods."""
    keras.utils.set_random_seed(cell.seed)
    recipe = recipes.RECIPES[cell.study]
    model = recipe.build(cell.tasks)
    optimizer = keras.optimizers.Adam(recipe.learning_rate)
    model.compile(optimizer, loss_weighting=weighting_of(cell.method))
    return model


def weighting_of(method: str) -> keras_mtl.weighting.LossWeighting:
    """Makes the loss weighting from its name, or `name:option=value,option=value`."""
    name, _, options = method.partition(":")
    weighting = keras_mtl.weighting.get("fixed" if name in (NONE, ANNEALED) else name)
    pairs = [option.partition("=") for option in options.split(",") if option]
    return type(weighting)(**{key: json.loads(value) for key, _, value in pairs})


def feed(rows: recipes.Rows, tasks: Iterable[str], batches: np.ndarray) -> tf.data.Dataset:
    """Returns the batches of a whole training."""
    labels = {task: rows.labels[task] for task in tasks}
    everything = tf.nest.map_structure(tf.constant, (rows.inputs, labels))

    def gather(chosen: tf.Tensor) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        return tf.nest.map_structure(lambda values: tf.gather(values, chosen), everything)

    return tf.data.Dataset.from_tensor_slices(batches).map(gather).prefetch(2)


def train(cell: Cell, path: str | None, epochs: int) -> dict[str, object]:
    """Trains one model; returns its test score and what it was chosen by."""
    start = time.perf_counter()
    keras.backend.clear_session()
    prepared = prepare(cell, path, epochs)
    main = cell.tasks[0]
    best = BestEpoch(main, prepared.splits["validation"])
    callbacks = [best]
    if cell.method == ANNEALED:
        schedule = dict.fromkeys(cell.tasks[1:], lambda epoch: 1 - epoch / max(1, epochs - 1))
        callbacks.append(keras_mtl.callbacks.LossWeightSchedule(schedule))
    model = make_model(cell)
    rows = prepared.splits["train"].hidden(main, prepared.labelled)
    history = model.fit(
        feed(rows, cell.tasks, prepared.batches),
        steps_per_epoch=len(prepared.batches) // epochs,
        epochs=epochs,
        callbacks=callbacks,
        verbose=0,
    ).history
    return {
        "score": measure(model, main, prepared.splits["test"]),
        "validation": best.scores,
        "weights": {task: history[f"{task}_weight"][-1] for task in cell.tasks},
        "seconds": round(time.perf_counter() - start, 1),
    }
