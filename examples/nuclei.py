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

EPOCHS, BATCH_SIZE, LEARNING_RATE = 14, 8, 3e-3  # chosen on validation images
WIDTHS = (16, 32, 64)  # of the U-Net, each at half the resolution of the one before
COARSEST = 2 ** len(WIDTHS)
METHODS = {
    "multi-task": {},
    "running scale": {"loss_weighting": "running_scale"},
}
MEASURES = [
    comparison.Measure("nuclei", "nuclei IoU", 3),
    comparison.Measure("boundary", "boundary F1", 3),
    comparison.Measure("count", "count MAE", higher_is_better=False),
    comparison.Measure("relative", "count MAE / MAE of the mean", higher_is_better=False),
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
    right = not any(size % COARSEST for size in images.shape[1:3])
    check(right, "images", path, f"of sizes that are multiples of {COARSEST} (pad them)", images)
    right = labels.shape == images.shape[:-1] and labels.dtype.kind in "iu"
    check(right, "labels", path, f"integers of shape {images.shape[:-1]}, one a pixel", labels)
    return images, labels


def kinds_of(images):
    """Tells stained tissue (coloured), bright-field (bright) and fluorescence (dark) apart."""
    values = images.astype("float32")
    colourfulness = np.ptp(values, axis=-1).mean((1, 2))
    brightness = values.mean((1, 2, 3))
    grey = np.where(brightness > 128, "bright-field", "fluorescence")
    return np.where(colourfulness > 2, "stained", grey)


def split_rows(kinds, seed):
    """Returns row numbers for training, validation and test: 60, 20 and 20 % of each kind."""
    for kind, number in zip(*np.unique(kinds, return_counts=True), strict=True):
        if number < 5:
            raise ValueError(
                f"A kind of image needs 5 images or more, to be in each split; there are {number} "
                f"of {kind}, in the rows {np.flatnonzero(kinds == kind).tolist()}."
            )
    rows = np.arange(len(kinds))
    rest, test = train_test_split(rows, test_size=0.2, stratify=kinds, random_state=seed)
    train, validation = train_test_split(
        rest, test_size=0.25, stratify=kinds[rest], random_state=seed
    )
    return {"train": train, "validation": validation, "test": test}


def boundaries_of(labels):
    """Marks pixels whose left, right, upper or lower neighbour has another label."""
    boundary = np.zeros(labels.shape, bool)
    down = labels[:, 1:] != labels[:, :-1]
    right = labels[:, :, 1:] != labels[:, :, :-1]
    boundary[:, 1:] |= down
    boundary[:, :-1] |= down
    boundary[:, :, 1:] |= right
    boundary[:, :, :-1] |= right
    return boundary


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


def turn(image, targets):
    """Turns an image and its maps by the same quarters of a circle, and mirrors half of them."""
    quarters = tf.random.uniform([], 0, 4, "int32")
    mirrored = tf.random.uniform([]) < 0.5

    def turned(pixels):
        pixels = tf.image.rot90(pixels, quarters)
        return tf.where(mirrored, pixels[:, ::-1], pixels)

    return turned(image), {
        task: target if task == "count" else turned(target) for task, target in targets.items()
    }


def make_tasks():
    """Specifies the tasks and what each reads; pixels are predicted twice as fine as features."""
    segmentation = keras_mtl.heads.Segmentation(2, upsampling=2)
    binary = keras_mtl.heads.BinaryClassification(pooling=None, upsampling=2)
    counting = keras_mtl.heads.Counting(activation="exponential")
    return {
        "nuclei": keras_mtl.Task(segmentation, features="pixels"),
        "boundary": keras_mtl.Task(binary, features="pixels"),
        # Deviances of counts are some hundred times as large as cross-entropies of pixels.
        "count": keras_mtl.Task(counting, features="image", loss_weight=0.05),
    }


def convolve(x, filters, strides=1):
    """Applies one convolution, normalised."""
    x = layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)(x)
    return layers.Activation("relu")(layers.BatchNormalization()(x))


def make_trunk(shape, wanted):
    """Makes a small U-Net: from half the resolution down to an eighth, and up again.

    `wanted` are those of its two outputs that tasks read: `pixels`, half as fine as the image,
    and `image`, the coarsest features. A model that only counts so needs no way up.
    """
    inputs = keras.Input(shape)
    x, skips = inputs, []
    for filters in WIDTHS:
        x = convolve(convolve(x, filters, strides=2), filters)
        skips.append(x)
    for skip in skips[-2::-1]:
        x = layers.Conv2DTranspose(skip.shape[-1], 2, strides=2)(x)
        x = convolve(layers.Add()([x, skip]), skip.shape[-1])
    outputs = {"pixels": x, "image": skips[-1]}
    return keras.Model(inputs, {name: outputs[name] for name in wanted}, name="trunk")


def train(tasks, splits, epochs, title, **balancing):
    """Trains one model; returns it and the minutes."""
    images, targets = splits["train"]
    rows = tf.data.Dataset.from_tensor_slices((images, {task: targets[task] for task in tasks}))
    rows = rows.shuffle(len(images)).map(turn).batch(BATCH_SIZE).prefetch(2)
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
        validation_data=(held_out, {task: answers[task] for task in tasks}),
        # A tenth of the pixels; so the threshold of the best F1 comes near to 0.5.
        class_weight={"boundary": {0: 1.0, 1: 2.0}} if "boundary" in tasks else None,
    )
    return model, minutes


def measure(model, examples, mean_count):
    """Returns the measures of those tasks that a model has, each the mean over images."""
    images, answers = examples
    found = model.predict(images, batch_size=32, verbose=0)
    truth = {task: answer.reshape(len(images), -1) for task, answer in answers.items()}
    style = {"average": "samples", "zero_division": 1.0}  # an image for itself; right if both empty
    values = {}
    if "nuclei" in found:
        marked = found["nuclei"][..., 1].reshape(len(images), -1) > 0.5
        values["nuclei"] = float(jaccard_score(truth["nuclei"], marked, **style))
    if "boundary" in found:
        marked = found["boundary"].reshape(len(images), -1) > 0.5
        values["boundary"] = float(f1_score(truth["boundary"], marked, **style))
    if "count" in found:
        values["count"] = float(np.mean(np.abs(found["count"] - answers["count"])))
        guessed = np.mean(np.abs(mean_count - answers["count"]))
        values["relative"] = values["count"] / float(guessed)
    return values


def run_seed(images, labels, epochs, seed):
    """Trains every model on one split; returns test measures, the last model and the test rows."""
    rows = split_rows(kinds_of(images), seed)
    splits = {split: make_examples(images[part], labels[part]) for split, part in rows.items()}
    mean_count = splits["train"][1]["count"].mean()
    tasks = make_tasks()
    results = {comparison.SINGLE: {comparison.MINUTES: 0.0}}
    for task in tasks:
        keras.utils.set_random_seed(seed)
        model, minutes = train({task: tasks[task]}, splits, epochs, comparison.SINGLE)
        results[comparison.SINGLE].update(measure(model, splits["test"], mean_count))
        results[comparison.SINGLE][comparison.MINUTES] += minutes
    for method, balancing in METHODS.items():
        keras.utils.set_random_seed(seed)
        model, minutes = train(tasks, splits, epochs, method, **balancing)
        values = measure(model, splits["test"], mean_count)
        results[method] = {**values, comparison.MINUTES: minutes}
    return results, model, rows["test"], splits["test"]


def draw_example(axes, image, answers, found):
    """Draws an image with the true outlines, and what was found inside and at the rim."""
    axes.imshow(image)
    tints = {"nuclei": (0, 0.45, 0.7), "boundary": (0.84, 0.37, 0)}
    maps = {"nuclei": found["nuclei"][..., 1], "boundary": found["boundary"][..., 0]}
    for task, tint in tints.items():
        marked = (maps[task] > 0.5)[..., None]
        axes.imshow(np.concatenate([marked * np.array(tint), 0.5 * marked], axis=-1))
    axes.contour(answers["nuclei"][..., 0], [0.5], colors="white", linewidths=0.8)
    axes.set_axis_off()
    counts = f"{int(answers['count'][0])} nuclei, {found['count'][0]:.0f} counted"
    axes.set_title(f"white: true outlines; blue: nuclei\norange: boundary; {counts}", fontsize=10)


def main(arguments=None):
    """Trains, compares and draws; returns the rows, the table and the folder of the results."""
    options = comparison.parse(
        __doc__.splitlines()[0], arguments, data="npz file with images and labels", epochs=EPOCHS
    )
    images, labels = load(options.data)
    last = {}

    def run(seed):
        results, last["model"], last["rows"], last["test"] = run_seed(
            images, labels, options.epochs, seed
        )
        return results

    rows, folder = comparison.repeat("nuclei", run, options.seeds)

    def picture(axes):
        inputs, answers = last["test"]
        place = np.argsort(answers["count"][:, 0])[len(inputs) // 2]  # the median number of nuclei
        one = slice(place, place + 1)
        found = last["model"].predict(inputs[one], verbose=0)
        first = {task: values[one][0] for task, values in answers.items()}
        draw_example(axes, images[last["rows"][place]], first, {k: v[0] for k, v in found.items()})

    return comparison.report("nuclei", rows, MEASURES, folder, [picture])


if __name__ == "__main__":
    main()
