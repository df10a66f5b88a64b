"""Measures whether and when an auxiliary task raises the main one, by the labels that one has.

    python benchmarks/auxiliary_tasks.py --study digits
    python benchmarks/auxiliary_tasks.py --study snips digits --data snips

The main task has few labels (the other rows hold -1), the auxiliary one those of all rows:

* `snips`: `intent` helped by `slots`, and the reverse. `--data` is the folder of SNIPS.
* `digits` (scikit-learn's): `digit` helped by `parity`, which is part of what is to be learned; by
  `pixels`, the image itself, which needs no labelling; and by `noise`, a random class for each
  image, which cannot help.

Methods: the main task alone (`none`, always trained), both with equal weights (`fixed`), the
auxiliary task's weight falling to 0 in equal steps over the epochs (`annealed`), or any loss
weighting: its name, or `name:option=value,option=value`. Data, networks and batches stand in
`auxiliary_recipes.py`.

`auto_lambda` and `auxilearn` move a weight by about their learning rate at a time. Their defaults
are for tens of thousands of steps: in the few hundred taken here weights go from 0.1 to 0.104 and
from 1 to 1.03 or less. So theirs are 100 times the default, `auxilearn` with a move every fifth
step: of the default, 10 times and 100 times that, what was best on the validation split, over two
seeds, with 50 labels of `digit` and 200 of `intent` or `slots`.

Seeds are paired: methods with the same seed and the same number of labels get the same splits, the
same labelled rows, the same batches, and the same initial values in trunk and main head. Labelled
rows are drawn with the same number from each class (of `intent` for SNIPS); those of a smaller
amount are among those of a larger one. All train for the same number of epochs at the same learning
rate, that of Adam, chosen for `none` on validation. The epoch with the best score on the validation
split counts; that split is larger than most practice with few labels would have. The test split
chooses nothing.

The first table gives test scores (accuracy, for `slots` F1 of whole slots) as mean and standard
deviation over seeds, the second one the mean difference to `none` of the same seed, with a 95 %
confidence interval by Student's t. Bold ones exclude 0; by chance, 1 in 20 does.

Each finished training is a line of `cells.jsonl` below `keras_mtl_runs/auxiliary_tasks/`: a run
that was stopped goes on where it was. Remove that file when the code of a method has changed.
Tables, seeds one by one with the last epoch's weights (`table.csv`), and a figure lie beside it.

Cost on 2 cores: 3 to 15 s a training, and there are 230.
"""

import argparse
import csv
import dataclasses
import json
import os
import pathlib
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported

import auxiliary_recipes as recipes
import auxiliary_report as report
import auxiliary_training as training
import numpy as np
from auxiliary_report import NONE, Line
from auxiliary_training import ANNEALED, Cell
from multimnist import read_cells

import keras_mtl

METHODS = (
    "fixed",
    ANNEALED,
    "auto_lambda:learning_rate=0.01",
    "auxilearn:learning_rate=0.1,update_every=5",
)


def scenarios(options: argparse.Namespace) -> list[tuple[str, tuple[str, str]]]:
    """Returns study, main task and auxiliary task of all that was asked for."""
    return [(study, pair) for study in options.study for pair in recipes.RECIPES[study].scenarios]


def amounts(options: argparse.Namespace, study: str) -> list[int]:
    """Returns the numbers of labels of one study."""
    few = recipes.RECIPES[study].amounts
    return options.labels or list(few[:1] if options.quick else few)


def make_cell(study: str, pair: tuple[str, str], method: str, labels: int, seed: int) -> Cell:
    """Returns a training; without a method it is that of the main task alone."""
    return Cell(study, pair[:1] if method == NONE else pair, method, labels, seed)


def plan(options: argparse.Namespace) -> list[Cell]:
    """Returns all trainings, seed by seed, once each."""
    cells = [
        make_cell(study, pair, method, labels, seed)
        for seed in range(options.seeds)
        for study, pair in scenarios(options)
        for labels in amounts(options, study)
        for method in (NONE, *options.methods)
    ]
    return list(dict.fromkeys(cells))


def check(cells: list[Cell], path: str | None) -> None:
    """Refuses an unknown method or a wrong number of labels before anything is trained."""
    for cell in {(cell.study, cell.method): cell for cell in cells}.values():
        training.make_model(cell)
    for study in {cell.study: None for cell in cells}:
        rows = len(recipes.RECIPES[study].load(path, 0)["train"])
        asked = sorted({cell.labels for cell in cells if cell.study == study})
        if asked[0] < 1 or asked[-1] > rows:
            raise ValueError(f"`--labels` of {study} must be from 1 to {rows}, received {asked}.")


def run(cells: list[Cell], options: argparse.Namespace, folder: pathlib.Path) -> dict[Cell, dict]:
    """Trains the cells that an earlier run has not finished; returns all results."""
    path, results, seconds = folder / "cells.jsonl", {}, []
    finished = read_cells(path)
    checksums = {
        study: recipes.RECIPES[study].load(options.data, 0)["train"].checksum()
        for study in options.study
    }
    for number, cell in enumerate(cells, 1):
        epochs = options.epochs or recipes.RECIPES[cell.study].epochs
        common = {"epochs": epochs, "data": checksums[cell.study], "version": keras_mtl.__version__}
        setting = {**common, **dataclasses.asdict(cell)}
        key = json.dumps(setting, sort_keys=True)
        if key not in finished:
            print(f"[{number} of {len(cells)}] {cell}:", end=" ", flush=True)
            finished[key] = result = training.train(cell, options.data, epochs)
            with path.open("a") as file:
                # The line break comes first, in case the line before was cut off.
                file.write("\n" + json.dumps({"setting": setting, "result": result}))
            seconds.append(result["seconds"])
            left = (len(cells) - number) * statistics.mean(seconds) / 60
            print(f"{result['score']:.1f} ({seconds[-1]:.0f} s, {left:.0f} min left)", flush=True)
        results[cell] = finished[key]
    return results


def make_lines(options: argparse.Namespace, results: dict[Cell, dict]) -> list[Line]:
    """Gathers the scores by scenario and number of labels."""

    def over_seeds(*place: object) -> np.ndarray:
        cells = [make_cell(*place, seed) for seed in range(options.seeds)]
        return np.array([results[cell]["score"] for cell in cells])

    return [
        Line(
            study,
            pair,
            labels,
            {name: over_seeds(study, pair, name, labels) for name in (NONE, *options.methods)},
        )
        for study, pair in scenarios(options)
        for labels in amounts(options, study)
    ]


def write_seeds(results: dict[Cell, dict], path: pathlib.Path) -> None:
    """Writes the score and the weights of each training."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        fields = [field.name for field in dataclasses.fields(Cell)]
        writer.writerow([*fields, "score", "validation", "epoch", "weights"])
        for cell, result in results.items():
            best, epoch = max(result["validation"]), 1 + int(np.argmax(result["validation"]))
            weights = " ".join(f"{value:.4g}" for value in result["weights"].values())
            row = {**dataclasses.asdict(cell), "tasks": "+".join(cell.tasks)}
            writer.writerow([*row.values(), result["score"], best, epoch, weights])


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--study", nargs="+", choices=list(recipes.RECIPES), required=True)
    add("--data", help="folder of SNIPS, for `--study snips`")
    add("--methods", nargs="+", default=METHODS, metavar="NAME", help="beside `none`")
    add("--labels", nargs="+", type=int, help="how many rows have a label of the main task")
    add("--seeds", type=int, default=5, help="number of seeds, counted from 0")
    add("--epochs", type=int)
    add("--quick", action="store_true", help="one epoch and the fewest labels, to try it out")
    options = parser.parse_args(arguments)
    if "snips" in options.study and not options.data:
        parser.error("`--study snips` needs `--data`, the folder with train, valid and test.")
    options.epochs = options.epochs or (1 if options.quick else None)
    return options


def main(arguments: list[str] | None = None) -> dict[str, object]:
    """Trains, compares and draws; returns lines, results, tables and folder."""
    options = parse(arguments)
    cells = plan(options)
    check(cells, options.data)
    folder = pathlib.Path("keras_mtl_runs") / "auxiliary_tasks"
    folder.mkdir(parents=True, exist_ok=True)
    results = run(cells, options, folder)
    lines = make_lines(options, results)
    tables = report.make_tables(lines)
    text = "\n\n".join(tables)
    print(f"\nTest scores, then differences to {NONE}; seeds 0 to {options.seeds - 1}.\n\n{text}")
    (folder / "table.md").write_text(text + "\n")
    write_seeds(results, folder / "table.csv")
    report.draw(lines, folder / "auxiliary_tasks.png")
    print(f"\nEverything is in {folder}.", flush=True)
    return {"lines": lines, "results": results, "tables": tables, "folder": folder}


if __name__ == "__main__":
    main()
