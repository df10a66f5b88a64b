"""Finds blood cells and counts them: boxes and counts by class, by one network.

    python examples/cells.py --data BCCD             # the extracted folder, or a tar file of it
    python examples/cells.py --data BCCD --seeds 3   # mean and deviation
    python examples/cells.py                         # by name, from TensorFlow Datasets

The data is BCCD (Shenggan, MIT licence): 364 photographs of blood under a microscope with a box
around each red cell (RBC), white cell (WBC) and platelet, in its official splits,
https://github.com/Shenggan/BCCD_Dataset. Two tasks read one trunk of convolutions: `cells` finds
the boxes, `counts` says how many there are of each class, rounded to whole cells. Single-task
models come first; predicting the mean or the median of the training counts comes last. The last
multi-task model is exported, as a SavedModel, and the figure shows the boxes that it serves.
Everything is written below `keras_mtl_runs/`.
"""

import functools

import bccd  # the files next to this one
import comparison
import keras
import numpy as np
import tensorflow as tf
from keras import layers

import keras_mtl

SIZE, CLASSES = bccd.SIZE, bccd.CLASSES
CELLS = keras_mtl.heads.Detection(len(CLASSES), on_bad_box="drop")  # two boxes have no area
BATCH_SIZE = 4
LEARNING_RATE = 5e-3
# Of 0.1, 0.03 and 0.01 validation photographs of one seed prefer this weight of counts, by the mean
# gain over the single tasks. At equal weights counting makes boxes worse.
COUNT_WEIGHTS = {"equal weights": 1.0, "multi-task": 0.03}
PRECISION = "average_precision"
CONSTANTS = {"training mean": np.mean, "training median": np.median}
SHOWN = 0.3  # the score from which on the figure shows a box
COLOURS = ("#56B4E9", "#E69F00", "#009E73")
MEASURES = (
    comparison.Measure(PRECISION, "mAP at IoU 0.5 (%)", 1),
    *(
        comparison.Measure(name, f"{name}, error of count", higher_is_better=False)
        for name in CLASSES
    ),
)


def make_arrays(photographs, split):
    """Returns images and labels; boxes of no area, which the loss drops, are not counted either."""
    images, objects = zip(*photographs, strict=True)
    cells = CELLS.encode(objects)
    bad = CELLS.bad_boxes(cells)
    counted = (cells["labels"][..., None] == np.arange(len(CLASSES))) & ~bad[..., None]
    counts = counted.sum(axis=1).astype("float32")
    print(f"{split}: {len(images)} photographs, {counts.sum():.0f} boxes, dropped: {bad.sum()}")
    return np.stack(images), {"cells": cells, "counts": counts}


def read(path):
    """Returns images and labels of each split."""
    return {split: make_arrays(parts, split) for split, parts in bccd.read(path).items()}


def flip(image, labels):
    """Mirrors half of the images left to right, and half upside down; counts stay."""
    across, down = tf.unstack(tf.random.uniform([2]) < 0.5)
    image = tf.reverse(image, [1]) if across else image
    image = tf.reverse(image, [0]) if down else image
    if "cells" not in labels:
        return image, labels
    cells = labels["cells"]
    left, top, right, bottom = tf.unstack(cells["boxes"], axis=-1)
    left, right = (1 - right, 1 - left) if across else (left, right)
    top, bottom = (1 - bottom, 1 - top) if down else (top, bottom)
    boxes = tf.stack([left, top, right, bottom], axis=-1)
    boxes = tf.where(cells["labels"][:, None] >= 0, boxes, -1.0)  # padding stays padding
    return image, {**labels, "cells": {**cells, "boxes": boxes}}


def make_batches(split, tasks):
    """Makes shuffled and flipped batches with the labels of some tasks."""
    images, labels = split
    rows = tf.data.Dataset.from_tensor_slices((images, {task: labels[task] for task in tasks}))
    return rows.shuffle(len(images)).map(flip).batch(BATCH_SIZE)


def convolution(filters, strides=1):
    """Makes one normalised convolution."""
    stack = [
        layers.Conv2D(filters, 3, strides, padding="same", use_bias=False),
        layers.BatchNormalization(momentum=0.9),  # there are few steps
        layers.Activation("relu"),
    ]
    return keras.Sequential(stack)


def make_trunk():
    """Makes the shared trunk, from 192 x 256 pixels to 24 x 32 cells of features."""
    image = keras.Input((*SIZE, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    for filters in (16, 32, 64):
        x = convolution(filters, strides=2)(x)
    # White cells are wider than what these see: look at half the size too, and add what is there.
    wide = convolution(64)(convolution(64, strides=2)(x))
    x = layers.add([x, layers.UpSampling2D()(wide)])
    return keras.Model(image, convolution(64)(x), name="trunk")


def make_tasks(weight=1.0):
    """Specifies the tasks; a count is the mean over the image of what its own convolution sees."""
    # Features multiply rates, so that small changes of the mean are changes of large counts too.
    counting = keras_mtl.heads.Counting(len(CLASSES), activation="exponential")
    counts = keras_mtl.Task(counting, tower=convolution(32), loss_weight=weight)
    return {"cells": CELLS, "counts": counts}


def train(tasks, splits, epochs, seed, title):
    """Trains one model; its schedule was chosen on the validation photographs, shown at the end."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((*SIZE, 3), name="image", dtype="uint8")
    model = keras_mtl.architectures.hard_sharing(inputs, make_trunk(), tasks)
    batches = make_batches(splits["train"], tasks)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, epochs * len(batches))
    model.compile(keras.optimizers.Adam(rate))
    _, minutes = comparison.fit(model, batches, epochs=epochs, title=f"{title}: {', '.join(tasks)}")
    print(f"Validation: {measure(model, splits['validation'])}")
    return model, minutes


def count_errors(counts, predicted):
    """Returns the mean absolute error of the counts, class by class."""
    return dict(zip(CLASSES, np.abs(counts - predicted).mean(axis=0).tolist(), strict=True))


def measure(model, split):
    """Returns the mean average precision in percent and the errors of the counts."""
    images, labels = split
    predictions = model.predict(images, batch_size=32, verbose=0)
    measures = {}
    if "cells" in predictions:
        precisions = CELLS.average_precision(labels["cells"], predictions["cells"])
        measures[PRECISION] = 100 * float(np.nanmean(precisions))
    if "counts" in predictions:
        measures |= count_errors(labels["counts"], np.rint(predictions["counts"]))
    return measures


def train_single(splits, epochs, seed):
    """Trains a model for each task; returns their test measures."""
    row = {comparison.MINUTES: 0.0}
    for task, head in make_tasks().items():
        model, minutes = train({task: head}, splits, epochs, seed, comparison.SINGLE)
        row |= measure(model, splits["test"])
        row[comparison.MINUTES] += minutes
    return row


def run_seed(splits, epochs, seed):
    """Trains all models; returns test measures by method, and the last multi-task model."""
    rows = {comparison.SINGLE: train_single(splits, epochs, seed)}
    for method, weight in COUNT_WEIGHTS.items():
        model, minutes = train(make_tasks(weight), splits, epochs, seed, method)
        rows[method] = {**measure(model, splits["test"]), comparison.MINUTES: minutes}
    train_counts, test_counts = (splits[split][1]["counts"] for split in ("train", "test"))
    for name, constant in CONSTANTS.items():
        errors = count_errors(test_counts, constant(train_counts, axis=0))
        rows[name] = {**errors, comparison.MINUTES: 0.0}
    return rows, model


def serve(model, image, folder):
    """Exports the model and returns what plain TensorFlow says to one image, with one request."""
    model.export(folder, verbose=False)
    served = tf.saved_model.load(folder).signatures["serving_default"]
    return {name: answer[0].numpy() for name, answer in served(image=image[None]).items()}


def draw_answer(axes, image, answer, counts):
    """Draws the boxes that were served, and the counts beside the true ones."""
    axes.imshow(image)
    axes.axis("off")
    boxes = answer["cells_boxes"] * np.tile(SIZE[::-1], 2)  # from parts of the image to pixels
    found = zip(boxes, answer["cells_labels"], answer["cells_scores"], strict=True)
    for (left, top, right, bottom), label, score in found:
        if score >= SHOWN:
            corners = [left, right, right, left, left], [top, top, bottom, bottom, top]
            axes.plot(*corners, color=COLOURS[label], linewidth=1.5)
    parts = zip(CLASSES, answer["counts"], counts, strict=True)
    text = [f"{name} {rate:.1f} ({count:.0f})" for name, rate, count in parts]
    axes.set_title(f"A test photograph, counts (and true ones)\n{', '.join(text)}", fontsize=10)
    lines = [axes.plot([], [], color=colour)[0] for colour in COLOURS]
    axes.legend(lines, CLASSES, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=3, frameon=False)


def main(arguments=None):
    """Trains, compares, exports and draws; returns the rows, the table and the folder."""
    data = "folder or tar file of BCCD; without it TensorFlow Datasets downloads it"
    options = comparison.parse(
        __doc__.splitlines()[0], arguments, data=data, epochs=40, data_required=False
    )
    splits = read(options.data)
    rows, folder, model = comparison.repeat_and_keep(
        "cells", lambda seed: run_seed(splits, options.epochs, seed), options.seeds
    )
    images, labels = splits["test"]
    row = int(np.argmax((labels["counts"] > 0).all(axis=1)))  # the first one with every class
    answer = serve(model, images[row], str(folder / "served"))
    picture = functools.partial(
        draw_answer, image=images[row], answer=answer, counts=labels["counts"][row]
    )
    return comparison.report("cells", rows, MEASURES, folder, [picture])


if __name__ == "__main__":
    main()
