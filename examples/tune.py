"""Searches trunk width, architecture and loss weighting for the two overlapping digits.

    python examples/tune.py                       # about 3 minutes on 2 cores
    python examples/tune.py --trials 30 --epochs 10
    python examples/tune.py --data mnist.npz

keras-tuner draws the trials; `names()` lists what can be named, so methods that are added later
are searched too, but for those that want other tasks than two digits side by side. Trials are
compared on validation pairs, the best one is measured on test pairs once. Everything is written
below `keras_mtl_runs/`.
"""

import argparse
import dataclasses
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported

import comparison  # the files next to this one
import keras
import keras_tuner
import quickstart
from keras import layers

import keras_mtl

# These want tasks that follow from each other, as a click and a purchase.
SEQUENCES = {"aitm", "esmm"}
ARCHITECTURES = [name for name in keras_mtl.architectures.names() if name not in SEQUENCES]
WEIGHTINGS = [
    name
    for name in keras_mtl.weighting.names()
    if not keras_mtl.weighting.get(name).needs_auxiliary_tasks
]
TASKS = {"left": keras_mtl.heads.Classification(10), "right": keras_mtl.heads.Classification(10)}


def make_stages(width):
    """Makes the trunk as a list of stages, which every architecture takes."""
    shallow = keras.Sequential([layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D()])
    deep = keras.Sequential([layers.Flatten(), layers.Dense(width, activation="relu")])
    return [shallow, deep]


def build(hp, shape):
    """Builds and compiles the model of one trial."""
    model = keras_mtl.build_model(
        hp.Choice("architecture", ARCHITECTURES),
        keras.Input(shape, name="image"),
        make_stages(hp.Int("width", 32, 256, step=32)),
        TASKS,
    )
    weighting = hp.Choice("weighting", WEIGHTINGS)
    model.compile(keras.optimizers.Adam(1e-3), loss_weighting=weighting)
    return model


def make_tuner(shape, trials, seed, folder):
    """Returns a random search for the sum of both validation accuracies."""
    objectives = [keras_tuner.Objective(f"val_{task}_accuracy", "max") for task in TASKS]
    return keras_tuner.RandomSearch(
        lambda hp: build(hp, shape),
        objective=objectives,
        max_trials=trials,
        seed=seed,
        directory=folder,
        project_name="tune",
        overwrite=True,
    )


def make_table(tuner):
    """Writes the trials, the best first, as a Markdown table of validation accuracies."""
    lines = [
        "| architecture | width | weighting | left (%) | right (%) |",
        "|---|---|---|---|---|",
    ]
    for trial in tuner.oracle.get_best_trials(len(tuner.oracle.trials)):
        values = trial.hyperparameters.values
        names = [values["architecture"], values["width"], values["weighting"]]
        scores = [trial.metrics.get_best_value(f"val_{task}_accuracy") for task in TASKS]
        cells = [*map(str, names), *(f"{100 * score:.1f}" for score in scores)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(data=None, trials=10, epochs=6, seed=0, quick=False, out="keras_mtl_runs", verbose=1):
    """Runs the search; returns the table and the best model's results on test pairs."""
    scale = quickstart.QUICK if quick else quickstart.SMALL
    scale = dataclasses.replace(scale, train_pairs=min(scale.train_pairs, 6_000))
    splits = quickstart.load_splits(data, scale, seed)
    parts = {
        split: (images, {task: targets[task] for task in TASKS})
        for split, (images, targets) in splits.items()
    }
    keras.utils.set_random_seed(seed)
    tuner = make_tuner(parts["train"][0].shape[1:], trials, seed, pathlib.Path(out))
    tuner.search(
        *parts["train"],
        validation_data=parts["validation"],
        epochs=epochs,
        batch_size=scale.batch_size,
        verbose=verbose,
    )
    table = make_table(tuner)
    print(f"\nValidation accuracies of {trials} trials\n{table}")
    best = tuner.get_best_models(1)[0]
    results = best.evaluate(*parts["test"], verbose=0, return_dict=True)
    shown = ", ".join(f"{task} {100 * results[f'{task}_accuracy']:.1f} %" for task in TASKS)
    print(f"\nThe best of them on test pairs: {shown}")
    return table, results


def parse(arguments=None):
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="npz file with x_train, y_train, x_test, y_test")
    parser.add_argument("--trials", type=comparison.read_positive, default=10)
    parser.add_argument("--epochs", type=comparison.read_positive, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few seconds, to try it out")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(**vars(parse()))
