"""Finds, outlines and counts cell nuclei in microscope images: three tasks on one U-Net.

    python examples/nuclei.py --data dsb2018_128.npz            # one seed
    python examples/nuclei.py --data dsb2018_128.npz --seeds 3  # mean and deviation

The data are the 664 training images of the 2018 Data Science Bowl (Caicedo et al. 2019, Nature
Methods 16:1247; BBBC038, CC0 1.0) at 128 x 128. The npz file has two arrays: `images` (n, height,
width, 3), uint8, and `labels` (n, height, width), integers: 0 for background, else the number of
the nucleus. `nuclei` and `boundary` read the last features of the U-Net, `count` the coarsest.
Single-task models come first. Everything is written below `keras_mtl_runs/`.
"""

import comparison  # first: it quietens TensorFlow
import keras
import numpy as np
import tensorflow as tf
from keras import layers
from sklearn.metrics import f1_score, jaccard_score
from sklearn.model_selection import train_test_split

import keras_mtl

EPOCHS, BATCH_SIZE, LEARNING_RATE = 14, 8, 3e-3  # for minutes on one core
WIDTHS = (8, 16, 32, 64)  # of the U-Net, each at half the resolution of the one before
COARSEST = 2 ** (len(WIDTHS) - 1)
# Deviances of counts are some hundred times as large as cross-entropies of pixels. Of 0.05, 0.02,
# 0.005, 0.001 and 0.0003 validation images of seed 0 prefer this weight, for all three tasks. They
# are test images of no seed.
METHODS = {"multi-task": {"loss_weights": {"count": 0.001}}}
SCORES = {"nuclei": jaccard_score, "boundary": f1_score}
MEASURES = [
    comparison.Measure("nuclei", "nuclei IoU", 3),
    comparison.Measure("boundary", "boundary F1", 3),
    comparison.Measure("count", "count MAE", higher_is_better=False),
]


def check(right, name, path, wanted, array):
    """Refuses an array that is not what was wanted."""
    if not right:
        raise ValueError(
            f"`{name}` in {path} must be {wanted}, received {array.dtype} of shape {array.shape}."
        )


def load(path):
    """Returns images and instance labels, after a check of their shapes and types."""
    with np.load(path) as file:
        missing = sorted({"images", "labels"} - set(file.files))
        if missing:
            raise ValueError(f"{path} lacks the arrays {missing}, it has {sorted(file.files)}.")
        images, labels = file["images"], file["labels"]
    right = images.ndim == 4 and images.shape[-1] == 3 and images.dtype == np.uint8
    check(right, "images", path, "uint8 of shape (n, height, width, 3)", images)
    right = images.shape[1] == images.shape[2] and images.shape[1] % COARSEST == 0
    check(right, "images", path, f"square, their size a multiple of {COARSEST}", images)
    right = labels.shape == images.shape[:-1] and labels.dtype.kind in "iu" and labels.min() >= 0
    check(right, "labels", path, f"integers >= 0 of shape {images.shape[:-1]}", labels)
    return images, labels


def kinds_of(images):
    """Tells stained tissue (coloured), bright-field (bright) and fluorescence (dark) apart."""
    values = images.astype("float32")
    colourfulness = np.ptp(values, axis=-1).mean((1, 2))
    brightness = values.mean((1, 2, 3))
    grey = np.where(brightness > 128, "bright-field", "fluorescence")
    return np.where(colourfulness > 2, "stained", grey)


def split_rows(kinds, seed):
    """Returns row numbers for training, validation and test: 60, 20 and 20 % of each kind.

    Test images are the same for every seed: what validation images of one seed have chosen has seen
    none of them.
    """
    for kind, number in zip(*np.unique(kinds, return_counts=True), strict=True):
        if number < 5:
            raise ValueError(
                f"A kind of image needs 5 images or more, to be in each split; there are {number} "
                f"of {kind}, in the rows {np.flatnonzero(kinds == kind).tolist()}."
            )
    rows = np.arange(len(kinds))
    rest, test = train_test_split(rows, test_size=0.2, stratify=kinds, random_state=0)
    train, validation = train_test_split(
        rest, test_size=0.25, stratify=kinds[rest], random_state=seed
    )
    return {"train": train, "validation": validation, "test": test}


def boundaries_of(labels):
    """Marks pixels whose left, right, upper or lower neighbour has another label."""
    padded = np.pad(labels, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = padded[:, :-2, 1:-1], padded[:, 2:, 1:-1]
    columns = padded[:, 1:-1, :-2], padded[:, 1:-1, 2:]
    return np.any([labels != neighbours for neighbours in (*rows, *columns)], axis=0)


def make_examples(images, labels):
    """Returns what a model takes and what it is to learn."""
    values = images.astype("float32")
    # Each image for itself: some are a hundred times as bright as others.
    mean = values.mean((1, 2, 3), keepdims=True)
    spread = values.std((1, 2, 3), keepdims=True) + 1.0
    targets = {
        "nuclei": (labels > 0)[..., None].astype("int32"),
        "boundary": boundaries_of(labels)[..., None].astype("int32"),
        "count": np.array([len(np.setdiff1d(image, 0)) for image in labels], "float32")[:, None],
    }
    return (values - mean) / spread, targets


def flip(image, targets):
    """Flips half of the images and their maps across the diagonal.

    Images and labels were resampled to this size with offsets of a fraction of a pixel, alike on
    both axes: this flip keeps them, so that they can be learned, where a rotation does not.
    """
    flipped = tf.random.uniform([]) < 0.5

    def turn(pixels):
        return tf.where(flipped, tf.transpose(pixels, (1, 0, 2)), pixels)

    maps = {task: turn(target) for task, target in targets.items() if task != "count"}
    return turn(image), {**targets, **maps}


def make_tasks():
    """Specifies the tasks, and which features of the trunk each of them reads."""
    binary = keras_mtl.heads.BinaryClassification(pooling=None)
    counting = keras_mtl.heads.Counting(activation="exponential")
    return {
        "nuclei": keras_mtl.Task(keras_mtl.heads.Segmentation(2), features="pixels"),
        "boundary": keras_mtl.Task(binary, features="pixels"),
        "count": keras_mtl.Task(counting, features="image"),
    }


def convolve(x, filters, strides=1):
    """Applies one convolution, normalised."""
    x = layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)(x)
    return layers.Activation("relu")(layers.BatchNormalization()(x))


def make_trunk(shape, wanted):
    """Makes a small U-Net: down to an eighth of the resolution, and up again.

    `wanted` are those of its two outputs that tasks read: `pixels`, as fine as the image, and
    `image`, the coarsest features. A model that only counts so needs no way up.
    """
    inputs = keras.Input(shape)
    skips = [convolve(inputs, WIDTHS[0])]
    for filters in WIDTHS[1:]:
        skips.append(convolve(convolve(skips[-1], filters, strides=2), filters))
    x = skips[-1]
    for skip in skips[-2::-1]:
        x = layers.Conv2DTranspose(skip.shape[-1], 2, strides=2)(x)
        x = convolve(layers.Add()([x, skip]), skip.shape[-1])
    outputs = {"pixels": x, "image": skips[-1]}
    return keras.Model(inputs, {name: outputs[name] for name in wanted}, name="trunk")


def train(tasks, splits, epochs, title, **balancing):
    """Trains one model; returns it and the minutes."""
    images, targets = splits["train"]
    rows = tf.data.Dataset.from_tensor_slices((images, {task: targets[task] for task in tasks}))
    rows = rows.shuffle(len(images)).map(flip).batch(BATCH_SIZE).prefetch(2)
    held_out, answers = splits["validation"]
    inputs = keras.Input(images.shape[1:], name="image")
    trunk = make_trunk(images.shape[1:], sorted({task.features for task in tasks.values()}))
    model = keras_mtl.architectures.hard_sharing(inputs, trunk, tasks)
    steps = epochs * len(rows)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)),
        **balancing,
    )
    _, minutes = comparison.fit(
        model,
        rows,
        title=f"{title}: {', '.join(tasks)}",
        epochs=epochs,
        validation_freq=4,
        validation_data=(held_out, {task: answers[task] for task in tasks}),
        # A tenth of the pixels are, and F1 wants more of them marked than the likely ones.
        class_weight={"boundary": {0: 1.0, 1: 2.0}} if "boundary" in tasks else None,
    )
    return model, minutes


def measure(model, examples):
    """Returns the measures of those tasks that a model has, each the mean over images."""
    images, answers = examples
    found = model.predict(images, batch_size=32, verbose=0)
    values = {}
    for task in SCORES.keys() & found.keys():
        truth, marked = (x.reshape(len(images), -1) for x in (answers[task], found[task][..., -1]))
        # An image for itself, and right where there is nothing to find and nothing was found.
        values[task] = float(
            SCORES[task](truth, marked > 0.5, average="samples", zero_division=1.0)
        )
    if "count" in found:
        values["count"] = float(np.mean(np.abs(found["count"] - answers["count"])))
    return values


def guess(splits):
    """Measures the mean count of the training images as the answer for each test image."""
    mean = splits["train"][1]["count"].mean()
    error = float(np.mean(np.abs(splits["test"][1]["count"] - mean)))
    return {"count": error, comparison.MINUTES: 0.0}


def run_seed(images, labels, epochs, seed):
    """Trains every model on one split; returns test measures, the last model and the test rows."""
    rows = split_rows(kinds_of(images), seed)
    splits = {split: make_examples(images[part], labels[part]) for split, part in rows.items()}
    tasks = make_tasks()
    results = {comparison.SINGLE: {comparison.MINUTES: 0.0}}
    for task in tasks:
        keras.utils.set_random_seed(seed)
        model, minutes = train({task: tasks[task]}, splits, epochs, comparison.SINGLE)
        results[comparison.SINGLE].update(measure(model, splits["test"]))
        results[comparison.SINGLE][comparison.MINUTES] += minutes
    for method, balancing in METHODS.items():
        keras.utils.set_random_seed(seed)
        model, minutes = train(tasks, splits, epochs, method, **balancing)
        results[method] = {**measure(model, splits["test"]), comparison.MINUTES: minutes}
    results["mean count"] = guess(splits)
    return results, (model, images[rows["test"]], splits["test"])


def draw_example(axes, model, images, examples):
    """Draws the test image with the median count: true outlines, and what the model finds."""
    inputs, answers = examples
    place = np.argsort(answers["count"][:, 0])[len(inputs) // 2]
    found = model.predict(inputs[place : place + 1], verbose=0)
    axes.imshow(images[place])
    tints = {"nuclei": (0, 0.45, 0.7), "boundary": (0.84, 0.37, 0)}
    for task, tint in tints.items():
        marked = found[task][0, ..., -1:] > 0.5
        axes.imshow(np.concatenate([marked * np.array(tint), 0.6 * marked], axis=-1))
    axes.contour(answers["nuclei"][place, ..., 0], [0.5], colors="white", linewidths=0.8)
    axes.set_axis_off()
    counts = f"{answers['count'][place, 0]:.0f} nuclei, {found['count'][0, 0]:.0f} counted"
    axes.set_title(f"white: true outlines; blue: nuclei\norange: boundary; {counts}", fontsize=10)


def main(arguments=None):
    """Trains, compares and draws; returns the rows, the table and the folder of the results."""
    options = comparison.parse(
        __doc__.splitlines()[0], arguments, data="npz file with images and labels", epochs=EPOCHS
    )
    images, labels = load(options.data)
    rows, folder, shown = comparison.repeat_and_keep(
        "nuclei", lambda seed: run_seed(images, labels, options.epochs, seed), options.seeds
    )
    pictures = [lambda axes: draw_example(axes, *shown)]
    return comparison.report("nuclei", rows, MEASURES, folder, pictures)


if __name__ == "__main__":
    main()
