"""What the examples share: the command line, the seeds, the table and the figure.

An example trains, for each seed, its single-task baselines and its multi-task models, and measures
them on test rows. Nothing in here is about multi-task learning.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported

import keras
import numpy as np
import tensorflow as tf

tf.get_logger().setLevel("ERROR")  # it warns of retracing because there are several models

SINGLE = "single task"
MINUTES = "minutes"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "0.3")


@dataclasses.dataclass(frozen=True)
class Measure:
    """A column of the results.

    Args:
        key: String. Its name in what a seed returns.
        title: String. The column's head, with the unit.
        decimals: Integer. Digits after the point.
        higher_is_better: Boolean. Only said in the figure.
    """

    key: str
    title: str
    decimals: int = 2
    higher_is_better: bool = True


def read_positive(text):
    """Returns an argument of the command line as an integer >= 1."""
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be an integer >= 1, received {text!r}")
    return value


def parse(description, arguments, *, data, epochs, data_required=True, add_arguments=None):
    """Reads the command line of an example: `--data`, `--epochs`, `--seeds` and `--quick`.

    `add_arguments(parser)` adds the example's own ones.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", required=data_required, help=data)
    parser.add_argument("--epochs", type=read_positive, help=f"{epochs} by default")
    parser.add_argument("--seeds", type=read_positive, default=1, help="number of repetitions")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    if add_arguments:
        add_arguments(parser)
    options = parser.parse_args(arguments)
    options.epochs = options.epochs or (1 if options.quick else epochs)
    return options


def fit(model, *data, title, **arguments):
    """Trains with progress bars; returns the history and the minutes it took."""
    print(f"\n{title}", flush=True)
    arguments = {"verbose": 1 if sys.stdout.isatty() else 2, **arguments}
    start = time.perf_counter()
    history = model.fit(*data, **arguments)
    return history.history, (time.perf_counter() - start) / 60


def keep_best(monitor, epochs):
    """Returns the callback that restores the epoch with the highest `monitor`, without stopping."""
    return keras.callbacks.EarlyStopping(
        monitor, mode="max", patience=epochs, restore_best_weights=True
    )


def repeat(name, run_seed, seeds):
    """Calls `run_seed(seed)` for every seed and collects what it measures.

    Args:
        name: String. The example; results are written below `keras_mtl_runs/` under it, after
            each seed.
        run_seed: Function of a seed that returns `{method: {measure: value}}`, with the baseline
            first; a method may lack a measure. It is called with Keras, NumPy and Python seeded.
        seeds: Integer >= 1. How many.

    Returns:
        `{method: {measure: array}}`, with an entry a seed, and the folder.
    """
    folder = pathlib.Path("keras_mtl_runs") / name
    folder.mkdir(parents=True, exist_ok=True)
    runs = []
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        runs.append(run_seed(seed))
        (folder / "results.json").write_text(json.dumps(runs, indent=1) + "\n")
    rows = {
        method: {key: np.array([run[method][key] for run in runs]) for key in values}
        for method, values in runs[0].items()
    }
    return rows, folder


def repeat_and_keep(name, run_seed, seeds):
    """Does as `repeat`, where `run_seed` returns what it measures and what to show.

    Returns:
        `{method: {measure: array}}`, the folder, and what to show of the last seed.
    """
    kept = [None]

    def run(seed):
        measured, kept[0] = run_seed(seed)
        return measured

    return *repeat(name, run, seeds), kept[0]


def show(values, decimals, sign=""):
    """Writes a mean, and a standard deviation where there are several seeds; `None` is empty."""
    if values is None:
        return ""
    text = f"{np.mean(values):{sign}.{decimals}f}"
    return f"{text} ± {np.std(values, ddof=1):.{decimals}f}" if len(values) > 1 else text


def difference(row, baseline, key):
    """Returns the differences seed by seed, `None` where one of the two lacks the measure."""
    return row[key] - baseline[key] if key in row and key in baseline else None


def make_table(rows, measures):
    """Writes the results as a Markdown table, with paired differences to the first row below."""
    columns = [*measures, Measure(MINUTES, "minutes a seed", 1)]
    lines = [["method", *(column.title for column in columns)], ["---"] * (len(columns) + 1)]
    for method, row in rows.items():
        cells = [show(row.get(column.key), column.decimals) for column in columns]
        lines.append([method, *cells])
    baseline, *others = rows
    for method in others:
        gains = [difference(rows[method], rows[baseline], measure.key) for measure in measures]
        cells = [show(g, m.decimals, "+") for g, m in zip(gains, measures, strict=True)]
        lines.append([f"{method}, less {baseline}", *cells, ""])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw_measure(axes, rows, measure):
    """Draws a dot for each seed and method, joined seed by seed, and a bar at each mean."""
    values = {
        place: row[measure.key] for place, row in enumerate(rows.values()) if measure.key in row
    }
    axes.plot(list(values), np.array(list(values.values())), color="0.8", zorder=1)
    for place, runs in values.items():
        colour = COLOURS[place % len(COLOURS)]
        axes.scatter(np.full(len(runs), place), runs, color=colour, zorder=2)
        axes.hlines(np.mean(runs), place - 0.25, place + 0.25, color=colour, zorder=2)
    axes.set_xticks(
        np.arange(len(rows)), list(rows), rotation=35, ha="right", rotation_mode="anchor"
    )
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    direction = "higher" if measure.higher_is_better else "lower"
    axes.set_title(f"{measure.title}\n{direction} is better", fontsize=10)


def draw(rows, measures, path, pictures=()):
    """Draws one panel a measure, and one for each function of axes in `pictures`, into a PNG."""
    from matplotlib.figure import Figure

    widths = [max(2.2, 0.8 * len(rows))] * len(measures) + [4] * len(pictures)
    figure = Figure(figsize=(sum(widths), 4), layout="constrained")
    panels = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    for axes, measure in zip(panels, measures, strict=False):
        draw_measure(axes, rows, measure)
    for axes, picture in zip(panels[len(measures) :], pictures, strict=True):
        picture(axes)
    figure.savefig(path, dpi=120)


def report(name, rows, measures, folder, pictures=(), undrawn=()):
    """Prints and writes the table, draws the figure; returns all of them for the caller.

    Methods in `undrawn` stand in the table only, as what is far from all others.
    """
    table = make_table(rows, measures)
    (folder / "table.md").write_text(table + "\n")
    drawn = {method: row for method, row in rows.items() if method not in undrawn}
    draw(drawn, measures, folder / f"{name}.png", pictures)
    seeds = len(next(iter(rows.values()))[MINUTES])
    print(f"\nTest rows, {seeds} seed(s), mean ± standard deviation:\n\n{table}\n")
    print(f"Figure: {folder / name}.png")
    return {"rows": rows, "table": table, "folder": folder}
