"""Compares the architectures at an equal number of parameters, under one budget of learning rates.

    python benchmarks/architectures.py
    python benchmarks/architectures.py --data mnist.npz --problems multimnist
    python benchmarks/architectures.py --step-cost

The problems stand in `architecture_problems.py`: two regressions of known correlation, a funnel of
clicks and purchases, and MultiMNIST, which needs `--data`, a file of MNIST's form. The width of
each architecture's trunk is the one at which it has the number of trainable parameters nearest to
that of `hard_sharing` (stems, towers and heads included); other options are the defaults. "single
task" is one network a task, each with its part of the parameters.

Each architecture trains at every learning rate with the first seed. The rate with the best mean
validation score after the last epoch is kept for the other seeds; test rows choose nothing. An
architecture that does not fit the tasks is left out, with the reason. `step` is the time of a
training step over that of `hard_sharing`, the median over interleaved pairs.

`--step-cost` times all architectures on one and the same trunk instead, and `mmoe` with 2, 4 and 8
experts, whose limit is 1.1 times the number of experts.

Each finished training is a line of `cells.jsonl` below `keras_mtl_runs/architectures/`, and a run
that was stopped goes on where it was; remove that file when the code has changed.
"""

import argparse
import dataclasses
import os
import pathlib
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported

import architecture_problems
import keras
import multimnist
import numpy as np
import step_cost
import tensorflow as tf
from architecture_problems import Problem

import keras_mtl

tf.get_logger().setLevel("ERROR")  # it warns of retracing because there are many models

SINGLE, SHARED = "single task", "hard_sharing"


@dataclasses.dataclass(frozen=True)
class Candidate:
    """What is trained: an architecture of some width, on some tasks of a problem."""

    problem: str
    architecture: str
    tasks: tuple[str, ...]
    width: int

    @property
    def title(self) -> str:
        return f"{self.problem}, {self.architecture}"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training."""

    candidate: Candidate
    learning_rate: float
    seed: int


def build(
    problem: Problem, architecture: str, tasks: tuple[str, ...], width: int, **options: object
) -> keras_mtl.MultiTaskModel:
    """Builds an architecture on the problem's trunk of that width."""
    name = SHARED if architecture == SINGLE else architecture
    specs = {task: problem.tasks[task] for task in tasks}
    trunk = problem.trunk(width)
    return keras_mtl.build_model(name, problem.inputs(), trunk, specs, **options)


def size(model: keras.Model) -> int:
    """Returns the number of trainable parameters."""
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


def fitting_width(sizes: Callable[[int], int], budget: float) -> int:
    """Returns the width whose size is nearest to the budget; sizes must grow with width."""
    low, high = 1, 2
    while sizes(high) < budget:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if sizes(middle) < budget else (low, middle)
    return min((low, high), key=lambda width: abs(sizes(width) - budget))


def candidates(problem: Problem, name: str, architecture: str) -> list[Candidate]:
    """Returns the models of a row, which together have the parameters of hard sharing."""
    tasks = tuple(problem.tasks)
    budget = size(build(problem, SHARED, tasks, problem.width))
    groups = [(task,) for task in tasks] if architecture == SINGLE else [tasks]
    found = []
    for group in groups:
        width = fitting_width(
            lambda width, group=group: size(build(problem, architecture, group, width)),
            budget / len(groups),
        )
        found.append(Candidate(name, architecture, group, width))
    return found


def train(cell: Cell, problem: Problem, epochs: int) -> dict[str, object]:
    """Trains one model; returns its scores, of which higher is better, and its size."""
    start = time.perf_counter()
    keras.backend.clear_session()
    keras.utils.set_random_seed(cell.seed)
    candidate = cell.candidate
    model = build(problem, candidate.architecture, candidate.tasks, candidate.width)
    model.compile(keras.optimizers.Adam(cell.learning_rate))
    model.fit(
        problem.splits["train"].batches(candidate.tasks, cell.seed),
        epochs=epochs,
        verbose=0,
        callbacks=[Dots()],
    )
    scores = {}
    for split in ("validation", "test"):
        batches = problem.splits[split].batches(candidate.tasks)
        logs = model.evaluate(batches, verbose=0, return_dict=True)
        sign = 1 if problem.higher_is_better else -1
        scores[split] = {task: sign * logs[f"{task}_{problem.metric}"] for task in candidate.tasks}
    return {
        "validation": {task: [score] for task, score in scores["validation"].items()},
        "test": scores["test"],
        "parameters": size(model),
        "seconds": round(time.perf_counter() - start, 1),
    }


class Dots(keras.callbacks.Callback):
    """Prints a dot for each epoch."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        print(".", end="", flush=True)


def run_row(
    models: list[Candidate], problem: Problem, seeds: int, trainings: multimnist.Trainings
) -> dict[str, object]:
    """Chooses the rate of each model on the first seed; trains it on all."""
    row: dict[str, object] = {"parameters": 0, "rates": []}
    for candidate in models:
        grid = [Cell(candidate, rate, seed=0) for rate in problem.learning_rates]
        best = max(grid, key=trainings.score)
        cells = [dataclasses.replace(best, seed=seed) for seed in range(seeds)]
        results = [trainings.result(cell) for cell in cells]
        for task in candidate.tasks:
            row[task] = problem.factor * np.abs([result["test"][task] for result in results])
        row["parameters"] += results[0]["parameters"]
        row["rates"].append(best.learning_rate)
    return row


def stepper(model: keras.Model, problem: Problem) -> Callable[[int], float]:
    """Compiles the model and returns a function that times a number of steps on one batch."""
    model.compile(keras.optimizers.Adam(1e-4))
    tasks = tuple(problem.tasks)
    batch = problem.splits["train"].batches(tasks).take(1).cache().repeat().prefetch(4)
    return step_cost.runner(model, iter(batch))


def step_ratio(
    problem: Problem, architecture: str, width: int, pairs: int, **options: object
) -> tuple[float, tuple[float, float]]:
    """Returns the step over that of hard sharing, and the 95 % interval of this median."""
    tasks = tuple(problem.tasks)
    own = stepper(build(problem, architecture, tasks, width, **options), problem)
    shared = stepper(build(problem, SHARED, tasks, problem.width), problem)
    ratios = step_cost.paired_ratios(own, shared, pairs, steps=10)
    return statistics.median(ratios), step_cost.median_interval(ratios)


def fits(problem: Problem, architecture: str) -> bool:
    """Whether the architecture takes these tasks; prints why not."""
    if architecture == SINGLE:
        return True
    try:
        build(problem, architecture, tuple(problem.tasks), problem.width)
    except (TypeError, ValueError) as error:
        print(f"{architecture} is left out: {error}", flush=True)
        return False
    return True


def make_table(problem: Problem, rows: dict[str, dict[str, object]]) -> str:
    """Writes the results as a Markdown table."""
    tasks = list(problem.tasks)
    lines = [
        f"| architecture | {' | '.join(tasks)} | parameters | step | learning rate |",
        "|---|" + "---|" * (len(tasks) + 3),
    ]
    for name, row in rows.items():
        cells = [show(row[task]) for task in tasks]
        cells += [f"{row['parameters']:,}", row["step"]]
        cells.append(", ".join(f"{rate:g}" for rate in row["rates"]))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def show(values: np.ndarray) -> str:
    """Writes a mean of at least three digits, and a standard deviation of several seeds."""
    places = 2 if np.mean(values) >= 10 else 4
    text = f"{np.mean(values):.{places}f}"
    return f"{text} ± {np.std(values, ddof=1):.{places}f}" if len(values) > 1 else text


def compare(name: str, problem: Problem, options: argparse.Namespace, folder: pathlib.Path) -> str:
    """Trains and times all architectures on one problem; returns the table."""
    epochs = 1 if options.quick else options.epochs or problem.epochs
    wanted = [SINGLE, SHARED, *(name for name in options.architectures if name != SHARED)]
    models = {row: candidates(problem, name, row) for row in wanted if fits(problem, row)}
    planned = sum(
        len(row) * (len(problem.learning_rates) + options.seeds - 1) for row in models.values()
    )
    trainings = multimnist.Trainings(
        folder / "cells.jsonl",
        {"epochs": epochs, "quick": options.quick, "version": keras_mtl.__version__},
        planned,
        lambda cell: train(cell, problem, epochs),
    )
    rows = {row: run_row(found, problem, options.seeds, trainings) for row, found in models.items()}
    for row, found in models.items():
        rows[row]["step"] = ""
        if row != SINGLE:
            ratio, _ = step_ratio(problem, row, found[0].width, options.pairs)
            rows[row]["step"] = f"{ratio:.2f}"
    table = make_table(problem, rows)
    (folder / f"{name}.md").write_text(table + "\n")
    return table


def time_steps(name: str, problem: Problem, options: argparse.Namespace) -> dict[str, float]:
    """Times all architectures on one and the same trunk."""
    experts = {f"mmoe, {count} experts": ("mmoe", {"num_experts": count}) for count in (2, 4, 8)}
    plain = {row: (row, {}) for row in options.architectures if fits(problem, row)}
    found = {}
    print(f"\n{name}: a step over that of {SHARED} on the same trunk, batch 256", flush=True)
    for title, (architecture, extra) in (plain | experts).items():
        ratio, (low, high) = step_ratio(
            problem, architecture, problem.width, options.pairs, **extra
        )
        limit = f"  (limit {1.1 * extra['num_experts']:.1f})" if extra else ""
        print(f"  {title:20s} {ratio:6.2f}  [{low:.2f}, {high:.2f}]{limit}", flush=True)
        found[title] = ratio
    return found


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", help="npz file of MNIST's form, for `multimnist`")
    add("--problems", nargs="+", metavar="NAME", help="all but `multimnist` without `--data`")
    add("--architectures", nargs="+", default=keras_mtl.architectures.names(), metavar="NAME")
    add("--epochs", type=int, help="30, on `multimnist` 5")
    add("--seeds", type=int, default=3, help="number of seeds, counted from 0")
    add("--pairs", type=int, default=40, help="pairs a timing")
    add("--step-cost", action="store_true", help="time steps on one trunk, train nothing")
    add("--quick", action="store_true", help="600 rows and one epoch, to try it out")
    options = parser.parse_args(arguments)
    known = architecture_problems.problems(options.data or "", quick=options.quick)
    unknown = set(options.problems or []) - set(known)
    if unknown:
        parser.error(f"no problem named {sorted(unknown)}; there are {list(known)}")
    if "multimnist" in (options.problems or []) and not options.data:
        parser.error("`multimnist` needs --data, an npz file of MNIST's form")
    return options


def main(arguments: list[str] | None = None) -> dict[str, object]:
    """Compares on each problem; returns the tables, or with `--step-cost` the ratios."""
    options = parse(arguments)
    folder = pathlib.Path("keras_mtl_runs") / "architectures"
    folder.mkdir(parents=True, exist_ok=True)
    known = architecture_problems.problems(options.data, quick=options.quick)
    found = {}
    for name in options.problems or known:
        problem = known[name]()
        if options.step_cost:
            found[name] = time_steps(name, problem, options)
            continue
        found[name] = compare(name, problem, options, folder)
        print(f"\n{name}, test rows, mean ± standard deviation\n\n{found[name]}", flush=True)
    return found


if __name__ == "__main__":
    main()
