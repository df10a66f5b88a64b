"""Reads two overlapping digits at once: real handwriting, three ways to balance the tasks.

    python examples/quickstart.py                       # the 1,797 digits of scikit-learn
    python examples/quickstart.py --seeds 3             # mean and deviation
    python examples/quickstart.py --data mnist.npz      # the same on all of MNIST

Two digit images lie on one canvas and overlap, so `left` and `right` compete for one trunk. A
third, auxiliary task, `pixels`, takes the two images apart. Single-task models come first, then
both digits together, then all three tasks with models that differ in one argument of `compile`.
Everything is written below `keras_mtl_runs/`.
"""

import argparse
import dataclasses
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported

import comparison  # the file next to this one
import keras
import numpy as np
import tensorflow as tf
from keras import layers

import keras_mtl

tf.get_logger().setLevel("ERROR")  # it warns of retracing because there are several models

MAIN_TASKS = ("left", "right")
SINGLE = "single task"
NO_AUXILIARY = "fixed, no auxiliary"
METHODS = {
    NO_AUXILIARY: {"loss_weighting": "fixed"},
    "fixed": {"loss_weighting": "fixed"},
    "uncertainty": {"loss_weighting": "uncertainty"},
    "pcgrad": {"gradient_balancing": "pcgrad"},
}
COLOURS = {"left": "#0072B2", "right": "#D55E00", "pixels": "#009E73"}  # safe for colour blindness
MARKERS = {"left": "o", "right": "s", "pixels": "^"}


@dataclasses.dataclass
class Scale:
    """How much to train; the defaults were chosen on validation pairs."""

    epochs: int
    train_pairs: int
    test_pairs: int
    batch_size: int = 128
    learning_rate: float = 1e-3
    pixels_weight: float = 10.0


SMALL = Scale(epochs=12, train_pairs=10_000, test_pairs=4_000)
LARGE = Scale(epochs=10, train_pairs=60_000, test_pairs=10_000)
QUICK = Scale(epochs=1, train_pairs=256, test_pairs=128)


def load_sources(path, seed):
    """Returns digit images and labels of each split; no image is in two of them."""
    if path is None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images, labels = digits.images.astype("float32") / 16, digits.target
        order = np.random.default_rng(seed).permutation(len(images))
        test, validation, train = np.split(order, [len(order) // 5, 2 * len(order) // 5])
        parts = {"train": train, "validation": validation, "test": test}
        return {split: (images[rows], labels[rows]) for split, rows in parts.items()}
    with np.load(path) as file:
        scaled = {name: file[name].astype("float32") / 255 for name in ("x_train", "x_test")}
        y_train, y_test = file["y_train"], file["y_test"]
    held_out = len(y_train) // 6
    return {
        "train": (scaled["x_train"][:-held_out], y_train[:-held_out]),
        "validation": (scaled["x_train"][-held_out:], y_train[-held_out:]),
        "test": (scaled["x_test"], y_test),
    }


def overlay(source, pairs, rng):
    """Lays pairs of digits on one canvas, top-left and bottom-right, and returns the targets."""
    images, labels = source
    first, second = rng.integers(len(images), size=(2, pairs))
    size = images.shape[1]
    shift = round(size * 2 / 7) + (size < 28)  # 28 -> a canvas of 36, 8 -> one of 11
    canvas = np.zeros((pairs, size + shift, size + shift), "float32")
    canvas[:, :size, :size] = images[first]
    canvas[:, shift:, shift:] = np.maximum(canvas[:, shift:, shift:], images[second])
    apart = np.concatenate([images[first], images[second]], axis=1).reshape(pairs, -1)
    return canvas[..., None], {"left": labels[first], "right": labels[second], "pixels": apart}


def load_splits(path, scale, seed):
    """Returns `(canvases, targets)` for training, validation and test."""
    sources = load_sources(path, seed)
    rng = np.random.default_rng(seed)
    pairs = {"train": scale.train_pairs, "validation": scale.test_pairs, "test": scale.test_pairs}
    return {split: overlay(sources[split], pairs[split], rng) for split in pairs}


def make_trunk(size):
    """Makes the shared trunk: convolutions down to a few pixels, and one dense layer."""
    stack = [layers.Conv2D(32, 3, activation="relu")]
    size -= 2
    while size > 6:
        stack.append(layers.Conv2D(64, 3, strides=2, activation="relu"))
        size = (size - 1) // 2
    stack += [layers.Flatten(), layers.Dropout(0.3), layers.Dense(128, activation="relu")]
    return keras.Sequential(stack, name="trunk")


def make_model(tasks, shape):
    """Builds a model for some of the tasks; every one has a trunk of the same size."""
    inputs = keras.Input(shape, name="image")
    return keras_mtl.architectures.hard_sharing(inputs, make_trunk(shape[0]), tasks)


def make_tasks(scale, num_pixels):
    """Specifies the three tasks."""
    return {
        "left": keras_mtl.heads.Classification(10),
        "right": keras_mtl.heads.Classification(10),
        "pixels": keras_mtl.Task(
            keras_mtl.heads.Regression(num_pixels),
            loss_weight=scale.pixels_weight,
            auxiliary=True,
        ),
    }


def train(tasks, splits, scale, title, **balancing):
    """Trains one model and returns it with its history."""
    print(f"\n{title}: {', '.join(tasks)}", flush=True)
    images, targets = splits["train"]
    validation_images, validation_targets = splits["validation"]
    model = make_model(tasks, images.shape[1:])
    model.compile(keras.optimizers.Adam(scale.learning_rate), **balancing)
    history = model.fit(
        images,
        {task: targets[task] for task in tasks},
        validation_data=(validation_images, {task: validation_targets[task] for task in tasks}),
        batch_size=scale.batch_size,
        epochs=scale.epochs,
        verbose=1 if sys.stdout.isatty() else 2,
    )
    return model, history.history


def accuracies(model, split):
    """Returns the accuracy in percent of each main task the model has."""
    images, targets = split
    predictions = model.predict(images, batch_size=1000, verbose=0)
    return {
        task: 100 * float(np.mean(predictions[task].argmax(-1) == targets[task]))
        for task in MAIN_TASKS
        if task in predictions
    }


def run_seed(path, scale, seed):
    """Trains every model once; returns test accuracies, histories and the model to serve."""
    splits = load_splits(path, scale, seed)
    tasks = make_tasks(scale, splits["train"][1]["pixels"].shape[1])
    main_tasks = {task: tasks[task] for task in MAIN_TASKS}
    test, histories, candidates = {SINGLE: {}}, {}, []
    for task, head in main_tasks.items():
        keras.utils.set_random_seed(seed)
        model, _ = train({task: head}, splits, scale, SINGLE)
        test[SINGLE].update(accuracies(model, splits["test"]))
    for method, arguments in METHODS.items():
        keras.utils.set_random_seed(seed)
        chosen = main_tasks if method == NO_AUXILIARY else tasks
        model, history = train(chosen, splits, scale, method, **arguments)
        test[method], histories[method] = accuracies(model, splits["test"]), history
        candidates.append((sum(history[f"val_{task}_accuracy"][-1] for task in MAIN_TASKS), model))
    served = max(candidates, key=lambda pair: pair[0])[1]  # the best on validation
    return test, histories, (served, splits["test"][0])


def summarise(runs):
    """Returns, for each method, arrays over seeds: accuracy a task, and the mean gain."""
    rows = {}
    for method in runs[0]:
        row = {task: np.array([run[method][task] for run in runs]) for task in MAIN_TASKS}
        gains = [row[task] - [run[SINGLE][task] for run in runs] for task in MAIN_TASKS]
        rows[method] = {**row, "gain": np.mean(gains, axis=0)}
    return rows


def show(values, sign=""):
    """Writes a mean, and a standard deviation where there are several seeds."""
    text = f"{np.mean(values):{sign}.2f}"
    return f"{text} ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else text


def make_table(rows):
    """Writes the results as a Markdown table."""
    lines = [
        "| method | left accuracy (%) | right accuracy (%) | gain over single task (points) |",
        "|---|---|---|---|",
    ]
    for method, row in rows.items():
        gain = "" if method == SINGLE else show(row["gain"], "+")
        lines.append(f"| {method} | {show(row['left'])} | {show(row['right'])} | {gain} |")
    return "\n".join(lines)


def draw_accuracies(axes, rows):
    """Draws one dot a method and task, with the deviation over seeds."""
    places = np.arange(len(rows))[::-1]
    for offset, task in zip((0.12, -0.12), MAIN_TASKS, strict=True):
        values = [row[task] for row in rows.values()]
        means = [np.mean(runs) for runs in values]
        spread = [np.std(runs, ddof=1) for runs in values] if len(values[0]) > 1 else None
        style = {"fmt": MARKERS[task], "color": COLOURS[task], "capsize": 3}
        axes.errorbar(means, places + offset, xerr=spread, label=task, **style)
    axes.set_yticks(places, list(rows))
    axes.set_ylim(-0.5, len(rows) - 0.5)
    axes.locator_params(axis="x", nbins=6)
    axes.set(xlabel="test accuracy (%)", title="Accuracy of the main tasks")


def draw_weights(axes, histories):
    """Draws the task weights that uncertainty weighting learned, and the constants."""
    for task, colour in COLOURS.items():
        weights, constants = (histories[m][f"{task}_weight"] for m in ("uncertainty", "fixed"))
        epochs = np.arange(1, len(weights) + 1)
        size = 9 if task == "left" else 5  # left and right can lie on each other
        style = {"marker": MARKERS[task], "markersize": size, "fillstyle": "none"}
        axes.plot(epochs, weights, label=task, color=colour, **style)
        axes.plot(epochs, constants, color=colour, linestyle=":")
    axes.plot([], [], color="0.4", linestyle=":", label="fixed")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="epoch", ylabel="task weight", title="Task weights under uncertainty")


def draw(rows, histories, path):
    """Draws accuracies and task weights into one PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels = figure.subplots(1, 2)
    draw_accuracies(panels[0], rows)
    draw_weights(panels[1], histories)
    for axes in panels:
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=4, frameon=False)
    figure.savefig(path, dpi=150)


def serve(model, images, folder):
    """Exports the model, loads it with plain TensorFlow and compares the predictions."""
    model.export(folder, verbose=False)
    loaded = tf.saved_model.load(folder)
    served = loaded.signatures["serving_default"](image=tf.constant(images))
    expected = model.predict(images, batch_size=len(images), verbose=0)
    return {
        task: float(np.max(np.abs(served[task].numpy() - expected[task]))) for task in MAIN_TASKS
    }


def parse(arguments):
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="npz file with x_train, y_train, x_test, y_test")
    parser.add_argument("--epochs", type=comparison.read_positive)
    parser.add_argument(
        "--seeds", type=comparison.read_positive, default=1, help="number of repetitions"
    )
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    return parser.parse_args(arguments)


def main(arguments=None):
    """Trains, compares, draws, exports; returns the rows, the table and what was written."""
    options = parse(arguments)
    scale = QUICK if options.quick else LARGE if options.data else SMALL
    if options.epochs:
        scale = dataclasses.replace(scale, epochs=options.epochs)
    folder = pathlib.Path("keras_mtl_runs") / "quickstart"
    folder.mkdir(parents=True, exist_ok=True)

    results = [run_seed(options.data, scale, seed) for seed in range(options.seeds)]
    rows = summarise([test for test, _, _ in results])
    _, histories, (model, images) = results[-1]
    table = make_table(rows)
    differences = serve(model, images[:100], str(folder / "served"))
    draw(rows, histories, folder / "quickstart.png")
    (folder / "table.md").write_text(table + "\n")

    print(f"\nTest pairs, {options.seeds} seed(s):\n\n{table}\n")
    print(f"Figure: {folder / 'quickstart.png'}")
    print(f"Served model: {folder / 'served'}, largest difference to predict: {differences}")
    return {"rows": rows, "table": table, "folder": folder, "differences": differences}


if __name__ == "__main__":
    main()
