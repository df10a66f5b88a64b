"""Reads two overlapping digits with one network, after two recipes of the literature.

    python examples/multimnist.py --data mnist.npz --seeds 3
    python examples/multimnist.py --data mnist.npz --recipe pareto --epochs 8
    python examples/multimnist.py --data mnist.npz --right fashion_mnist.npz
    python examples/multimnist.py                        # downloads MNIST by its TFDS name

MNIST is by LeCun, Cortes and Burges, Fashion-MNIST (MIT licence) by Xiao, Rasul and Vollgraf 2017;
`--data` is any file of their form (`x_train`, `y_train`, `x_test`, `y_test`, images of bytes).
`sener` lays two digits on a canvas of 36x36, six pixels apart, and resizes it to 28x28 (Sener,
Koltun 2018, arXiv:1810.04650); `pareto` has two canvases for each digit, which moves by up to four
pixels (X. Lin et al. 2019, arXiv:1912.12854). LeNet reads them. The last sixth of the training
digits makes the validation canvases. `benchmarks/multimnist.py` compares every method, each at its
own learning rate. Everything is written below `keras_mtl_runs/`.
"""

import pathlib
import typing

import comparison
import keras
import numpy as np
import tensorflow as tf
from keras import layers

import keras_mtl

BATCH = 256
LEARNING_RATE = 0.03  # for `sener` the best on validation in `benchmarks/multimnist.py`
METHODS = {"multi-task": {}, "multi-task, pcgrad": {"gradient_balancing": "pcgrad"}}
MEASURES = [
    comparison.Measure("left", "left accuracy (%)"),
    comparison.Measure("right", "right accuracy (%)"),
]


class Recipe(typing.NamedTuple):
    """What is different between the two experiments."""

    canvases: dict  # arguments of `multi_mnist`
    kernel: int  # of the first convolution
    tower: tuple  # dense layers of a task before its classes
    decay: tuple  # the part of the training after which the learning rate falls, and by what factor


RECIPES = {
    "sener": Recipe({}, 5, (50,), (0.1, 0.85)),
    "pareto": Recipe(
        {"size": 36, "copies": 2, "left_offset": (0, 4), "right_offset": (4, 8)}, 9, (), (0.15, 0.5)
    ),
}


def load_items(path, limit=None):
    """Returns images and class ids of each split, from a file or, without one, from TFDS."""
    if path is None:
        import tensorflow_datasets as tfds

        parts = tfds.as_numpy(tfds.load("mnist", batch_size=-1))
        arrays = {
            key: (part["image"][:limit, ..., 0], part["label"][:limit])
            for key, part in parts.items()
        }
    else:
        with np.load(path) as file:
            missing = {"x_train", "y_train", "x_test", "y_test"} - set(file)
            if missing:
                raise ValueError(f"{path} has no arrays {sorted(missing)}, only {sorted(file)}.")
            arrays = {
                key: (file[f"x_{key}"][:limit], file[f"y_{key}"][:limit])
                for key in ("train", "test")
            }
    images, labels = arrays["train"]
    cut = len(images) - len(images) // 6
    return {
        "train": (images[:cut], labels[:cut]),
        "validation": (images[cut:], labels[cut:]),
        "test": arrays["test"],
    }


def load_splits(options, folder):
    """Returns the rows `(image, {task: label})` of each split, kept in memory."""
    limit = 300 if options.quick else None
    left = load_items(options.data, limit)
    right = load_items(options.right, limit) if options.right else None
    builder = keras_mtl.data.multi_mnist(
        left, right, data_dir=folder / "data", **RECIPES[options.recipe].canvases
    )
    targets = {"left": "left", "right": "right"}
    return {
        split: keras_mtl.data.from_tfds(builder, split, inputs="image", targets=targets).cache()
        for split in left
    }


def batches(rows, tasks, seed=None):
    """Returns batches with the labels of some tasks, in a new order each epoch under a seed."""

    def scale(image, labels):
        return tf.cast(image, "float32") / 255, {task: labels[task] for task in tasks}

    if seed is not None:
        rows = rows.shuffle(len(rows), seed=seed)
    return rows.batch(BATCH).map(scale, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)


def make_model(recipe, side, tasks):
    """Builds LeNet with a head for each task; pixels are standardised as on MNIST."""
    trunk = [
        layers.Normalization(mean=0.1307, variance=0.3081**2),
        layers.Conv2D(10, recipe.kernel, activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(20, 5, activation="relu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(50, activation="relu"),
    ]
    dense = [layers.Dense(units, activation="relu") for units in recipe.tower]
    head = keras_mtl.Task(
        keras_mtl.heads.Classification(10), tower=keras.Sequential(dense) if dense else None
    )
    inputs = keras.Input((side, side, 1), name="image")
    return keras_mtl.architectures.hard_sharing(inputs, trunk, dict.fromkeys(tasks, head))


def make_optimizer(recipe, steps):
    """Makes SGD with a learning rate that falls in stairs, for a training of so many steps."""
    part, factor = recipe.decay
    schedule = keras.optimizers.schedules.ExponentialDecay(
        LEARNING_RATE, max(1, round(part * steps)), factor, staircase=True
    )
    return keras.optimizers.SGD(schedule, momentum=0.9)


def train(splits, tasks, title, options, seed, **methods):
    """Trains one model; returns its test accuracies in percent and the minutes it took."""
    keras.utils.set_random_seed(seed)
    recipe = RECIPES[options.recipe]
    train_batches = batches(splits["train"], tasks, seed)
    side = splits["train"].element_spec[0].shape[0]
    model = make_model(recipe, side, tasks)
    # `delta_m` is the mean gain over these, by which validation chooses the epoch.
    baselines = {f"{task}_accuracy": 0.95 for task in tasks}
    optimizer = make_optimizer(recipe, options.epochs * len(train_batches))
    model.compile(optimizer, baselines=baselines, **methods)
    _, minutes = comparison.fit(
        model,
        train_batches,
        validation_data=batches(splits["validation"], tasks),
        epochs=options.epochs,
        callbacks=[comparison.keep_best("val_delta_m", options.epochs)],
        title=title,
    )
    results = model.evaluate(batches(splits["test"], tasks), return_dict=True, verbose=0)
    return {task: 100 * results[f"{task}_accuracy"] for task in tasks}, minutes


def run_seed(splits, options, seed):
    """Trains a network for each digit, and one for both with each method."""
    rows = {comparison.SINGLE: {comparison.MINUTES: 0.0}}
    for task in ("left", "right"):
        accuracy, minutes = train(splits, [task], f"{task} alone", options, seed)
        rows[comparison.SINGLE].update(accuracy)
        rows[comparison.SINGLE][comparison.MINUTES] += minutes
    for title, methods in METHODS.items():
        accuracies, minutes = train(splits, ["left", "right"], title, options, seed, **methods)
        rows[title] = {**accuracies, comparison.MINUTES: minutes}
    return rows


def draw_canvas(axes, splits):
    """Shows the first test canvas with its two labels."""
    image, labels = next(iter(splits["test"]))
    axes.imshow(image[..., 0], cmap="gray_r")
    axes.set_title(f"left {labels['left']}, right {labels['right']}", fontsize=10)
    axes.axis("off")


def add_arguments(parser):
    """Adds what only this example asks for."""
    parser.add_argument("--recipe", choices=list(RECIPES), default="sener")
    parser.add_argument("--right", help="npz file of the right images, such as Fashion-MNIST")


def main(arguments=None):
    """Trains on each seed; returns the rows, the table and the folder."""
    options = comparison.parse(
        __doc__.splitlines()[0],
        arguments,
        data="npz file of MNIST's form; downloaded by default",
        epochs=20,
        data_required=False,
        add_arguments=add_arguments,
    )
    name = "multimnist" if options.recipe == "sener" else f"multimnist_{options.recipe}"
    splits = load_splits(options, pathlib.Path("keras_mtl_runs") / name)
    rows, folder = comparison.repeat(
        name, lambda seed: run_seed(splits, options, seed), options.seeds
    )
    pictures = [lambda axes: draw_canvas(axes, splits)]
    return comparison.report(name, rows, MEASURES, folder, pictures)


if __name__ == "__main__":
    main()
