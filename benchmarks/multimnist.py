"""Compares methods on MultiMNIST with tuned fixed weights, under one budget of learning rates.

    python benchmarks/multimnist.py --data mnist.npz --weighting all --seeds 3
    python benchmarks/multimnist.py --data mnist.npz --recipe pareto --balancing mgda:features

Two digits overlap on one canvas, and one network reads `left` and `right`; the recipes stand in
`multimnist_recipes.py`. `--data` is any file of MNIST's form (`x_train`, `y_train`, `x_test`,
`y_test`). The last sixth of its training digits makes the validation canvases, so 50,000 (`pareto`:
100,000) canvases train, and no digit image is in two splits. Seeds change initial values and order.

Each method trains at every learning rate with the first seed. The rate with the best mean
validation accuracy after the last epoch is kept for the other seeds. "fixed, tuned" chooses the
weight of `left` against `right` in the same way, so its budget is the larger. The baseline is one
network for each task, and delta_m the mean over tasks of the relative gain over the baseline of the
same seed, positive where better. Test canvases choose nothing.

Each finished training is a line of `cells.jsonl` below `keras_mtl_runs/multimnist/`: a run that was
stopped goes on where it was, one with more methods trains only these. Remove that file when the
code of a method has changed. `table.md` and, seed by seed, `table.csv` lie beside it.

Cost on 2 cores, a training of 15 epochs: `sener` 75 seconds, `pareto` 5 minutes; 1.6 times that
where a method takes a backward pass for each task. A method needs a training for each learning rate
and one for each seed after the first: 15 weightings on `sener` with the defaults 2 hours, of which
baseline and tuned weights take half an hour.
"""

import argparse
import csv
import dataclasses
import itertools
import json
import os
import pathlib
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported

import keras
import multimnist_recipes as recipes
import numpy as np
import tensorflow as tf
from step_cost import parse_balancing

import keras_mtl

tf.get_logger().setLevel("ERROR")  # it warns of retracing because there are many models

TASKS = ("left", "right")
SINGLE, EQUAL, TUNED = "single task", "fixed", "fixed, tuned"
LEARNING_RATES, LEFT_WEIGHTS = (0.01, 0.03, 0.1), (0.3, 0.4, 0.5, 0.6, 0.7)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """What is trained: some tasks, and the method between them."""

    tasks: tuple[str, ...] = TASKS
    weighting: str = "fixed"
    balancing: str = "none"
    left_weight: float = 0.5

    @property
    def title(self) -> str:
        if len(self.tasks) == 1:
            return f"{self.tasks[0]} alone"
        if self.left_weight != 0.5:
            return f"{self.weighting} {self.left_weight:g} : {1 - self.left_weight:g}"
        return self.weighting if self.balancing == "none" else self.balancing

    def methods(self) -> dict[str, object]:
        """Returns the arguments of `compile`."""
        balanced = self.balancing != "none"
        # Both sum to 2, as equal weights do, so that a learning rate means the same.
        weights = {"left": 2 * self.left_weight, "right": 2 - 2 * self.left_weight}
        return {
            "loss_weighting": self.weighting,
            "gradient_balancing": parse_balancing(self.balancing) if balanced else None,
            "loss_weights": {task: weights[task] for task in self.tasks},
        }


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training."""

    candidate: Candidate
    learning_rate: float
    seed: int


class Progress(keras.callbacks.Callback):
    """Prints mean validation accuracies on one line while a model trains."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        found = [logs[key] for key in (f"val_{task}_accuracy" for task in TASKS) if key in logs]
        if found:
            print(f" {100 * np.mean(found):.2f}", end="", flush=True)


def train(
    cell: Cell, splits: dict[str, recipes.Split], recipe: recipes.Recipe, epochs: int
) -> dict[str, object]:
    """Trains one model; returns its accuracies on validation, epoch by epoch, and on test."""
    start = time.perf_counter()
    keras.backend.clear_session()
    keras.utils.set_random_seed(cell.seed)
    tasks = cell.candidate.tasks
    model = recipes.build(recipe, tasks)
    batches = splits["train"].batches(tasks, cell.seed)
    optimizer = recipes.optimizer(recipe, cell.learning_rate, epochs * len(batches))
    model.compile(optimizer, **cell.candidate.methods())
    shown = sorted({-(-epochs * tenth // 10) for tenth in range(1, 11)})
    history = model.fit(
        batches,
        epochs=epochs,
        validation_data=splits["validation"].batches(tasks),
        validation_freq=shown,
        verbose=0,
        callbacks=[Progress()],
    ).history
    test = model.evaluate(splits["test"].batches(tasks), verbose=0, return_dict=True)
    return {
        "epochs": shown,
        "validation": {task: history[f"val_{task}_accuracy"] for task in tasks},
        "test": {task: test[f"{task}_accuracy"] for task in tasks},
        "seconds": round(time.perf_counter() - start, 1),
    }


class Trainings:
    """Trains cells, or finds them among the finished ones.

    Args:
        path: File of finished cells, one JSON object a line.
        common: Dict of what else a result depends on.
        planned: Integer. How many cells are wanted at most, for the progress lines.
        trainer: Function from a cell to its result.
    """

    def __init__(
        self, path: pathlib.Path, common: dict, planned: int, trainer: Callable[[Cell], dict]
    ) -> None:
        self._path, self._common, self._planned, self._trainer = path, common, planned, trainer
        self._finished = read_cells(path)
        self._wanted: set[str] = set()
        self._seconds: list[float] = []

    def result(self, cell: Cell) -> dict:
        """Returns what `train` found for a cell, now or in an earlier run."""
        setting = {**self._common, **dataclasses.asdict(cell)}
        key = json.dumps(setting, sort_keys=True)
        self._wanted.add(key)
        if key not in self._finished:
            place = f"[{len(self._wanted)} of at most {self._planned}] {cell.candidate.title}"
            print(f"{place}, rate {cell.learning_rate:g}, seed {cell.seed}:", end="", flush=True)
            self._finished[key] = result = self._trainer(cell)
            with self._path.open("a") as file:
                # The line break comes first, in case the line before was cut off.
                file.write("\n" + json.dumps({"setting": setting, "result": result}))
            self._seconds.append(result["seconds"])
            left = (self._planned - len(self._wanted)) * statistics.mean(self._seconds) / 60
            print(f" ({result['seconds']:.0f} s, at most {left:.0f} min left)", flush=True)
        return self._finished[key]

    def score(self, cell: Cell) -> float:
        """Returns the mean validation accuracy after the last epoch, by which cells are chosen."""
        return statistics.mean(curve[-1] for curve in self.result(cell)["validation"].values())


def read_cells(path: pathlib.Path) -> dict[str, dict]:
    """Returns results by setting; a line that was cut off while written is trained again."""
    cells = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            cell = json.loads(line)
        except json.JSONDecodeError:
            continue
        cells[json.dumps(cell["setting"], sort_keys=True)] = cell["result"]
    return cells


def asked(options: argparse.Namespace, recipe: recipes.Recipe) -> list[Candidate]:
    """Returns the methods that were named; `all` leaves out what cannot be had here, with why."""
    found, model = [], recipes.build(recipe, TASKS)
    for kind in ("weighting", "balancing"):
        names = getattr(options, kind)
        exported = getattr(keras_mtl, kind).names() if "all" in names else []
        for name in [*(name for name in names if name != "all"), *exported]:
            candidate = Candidate(**{kind: name})
            try:
                model.compile("sgd", **candidate.methods())
                found.append(candidate)
            except ValueError as error:
                if name in names:
                    raise
                print(f"{name} is left out: {error}", flush=True)
    return found


def make_rows(
    options: argparse.Namespace, recipe: recipes.Recipe
) -> dict[str, list[list[Candidate]]]:
    """Returns for each row its models, and for each model the candidates to choose from."""
    rows = {
        SINGLE: [[Candidate(tasks=(task,))] for task in TASKS],
        EQUAL: [[Candidate()]],
        TUNED: [[Candidate(left_weight=weight) for weight in options.left_weights]],
    }
    named = {candidate.title: [[candidate]] for candidate in asked(options, recipe)}
    return rows | named


def run_row(
    models: list[list[Candidate]], options: argparse.Namespace, trainings: Trainings
) -> dict[str, object]:
    """Chooses each model on the first seed, trains it on all; test accuracies are in percent."""
    row, chosen = {}, []
    for candidates in models:
        grid = itertools.product(candidates, options.learning_rates)
        best = max((Cell(*point, seed=0) for point in grid), key=trainings.score)
        cells = [dataclasses.replace(best, seed=seed) for seed in range(options.seeds)]
        results = [trainings.result(cell)["test"] for cell in cells]
        row |= {task: np.array([100 * test[task] for test in results]) for task in results[0]}
        chosen.append(best)
    return {**row, "chosen": chosen}


def gains(row: dict[str, object], baseline: dict[str, object]) -> np.ndarray:
    """Returns delta_m of each seed: the mean relative gain over tasks, in percent."""
    return np.mean([100 * (row[task] / baseline[task] - 1) for task in TASKS], axis=0)


def show(values: np.ndarray, sign: str = "") -> str:
    """Writes a mean, and a standard deviation where there are several seeds."""
    text = f"{np.mean(values):{sign}.2f}"
    return f"{text} ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else text


def make_table(rows: dict[str, dict[str, object]]) -> str:
    """Writes the results as a Markdown table."""
    lines = [
        "| method | left (%) | right (%) | delta_m (%) | learning rate |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        cells = [show(row[task]) for task in TASKS]
        cells.append("" if name == SINGLE else show(gains(row, rows[SINGLE]), "+"))
        cells.append(", ".join(f"{cell.learning_rate:g}" for cell in row["chosen"]))
        weight = f": left {row['chosen'][0].candidate.left_weight:g}" if name == TUNED else ""
        lines.append(f"| {name}{weight} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write_seeds(rows: dict[str, dict[str, object]], path: pathlib.Path) -> None:
    """Writes the test accuracies of each method and seed."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "seed", *TASKS, "delta_m"])
        for name, row in rows.items():
            found = zip(*(row[task] for task in TASKS), gains(row, rows[SINGLE]), strict=True)
            writer.writerows([name, seed, *values] for seed, values in enumerate(found))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", required=True, help="npz file of MNIST's form")
    add("--recipe", choices=list(recipes.RECIPES), default="sener")
    add("--weighting", nargs="*", default=[], metavar="NAME", help="or `all`")
    add(
        "--balancing",
        nargs="*",
        default=[],
        metavar="NAME[:SCOPE[:REFRESH_EVERY]]",
        help="or `all`",
    )
    add("--epochs", type=int, help="15, or 1 if quick")
    add("--seeds", type=int, default=3, help="number of seeds, counted from 0")
    add("--learning-rates", nargs="+", type=float, default=LEARNING_RATES, help="tried by all")
    add("--left-weights", nargs="+", type=float, default=LEFT_WEIGHTS, help="tried by `tuned`")
    add("--quick", action="store_true", help="600 digits and one epoch, to try it out")
    options = parser.parse_args(arguments)
    options.epochs = options.epochs or (1 if options.quick else 15)
    return options


def main(arguments: list[str] | None = None) -> dict[str, object]:
    """Trains, chooses and compares; returns rows, table and folder."""
    options = parse(arguments)
    recipe = recipes.RECIPES[options.recipe]
    rows = make_rows(options, recipe)
    folder = pathlib.Path("keras_mtl_runs") / "multimnist" / options.recipe
    folder.mkdir(parents=True, exist_ok=True)
    splits = recipes.load_splits(options.data, recipe, limit=600 if options.quick else None)
    common = {
        "recipe": options.recipe,
        "data": splits["train"].checksum,
        "epochs": options.epochs,
        "version": keras_mtl.__version__,
    }
    models = [candidates for row in rows.values() for candidates in row]
    planned = sum(len(m) * len(options.learning_rates) + options.seeds - 1 for m in models)
    trainings = Trainings(
        folder / "cells.jsonl",
        common,
        planned,
        lambda cell: train(cell, splits, recipe, options.epochs),
    )
    results = {name: run_row(models, options, trainings) for name, models in rows.items()}
    table = make_table(results)
    seeds = ", ".join(map(str, range(options.seeds)))
    print(f"\nRecipe {options.recipe}, {options.epochs} epochs, test canvases, seeds {seeds}")
    print(f"(mean ± standard deviation); everything is in {folder}.\n\n{table}", flush=True)
    (folder / "table.md").write_text(table + "\n")
    write_seeds(results, folder / "table.csv")
    return {"rows": results, "table": table, "folder": folder}


if __name__ == "__main__":
    main()
