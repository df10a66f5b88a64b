"""Hears spoken digits: digit, speaker and the letters of the name, by one network.

    python examples/spoken_digits.py --data fsdd.tar              # or a folder of wav files
    python examples/spoken_digits.py --data fsdd.tar --seeds 3    # mean and deviation
    python examples/spoken_digits.py --data fsdd.tar --seeds 6 --hold-out   # unknown speakers
    python examples/spoken_digits.py                   # downloads it by TensorFlow Datasets

The data is the Free Spoken Digit Dataset (Jackson et al., CC BY-SA 4.0), 3,000 clips of six
speakers at 8 kHz: https://github.com/Jakobovski/free-spoken-digit-dataset. The official test rows
are recordings 0 to 4 of each digit and speaker; 5 to 9 are for validation. Without `--data` it is
an older version, 2,500 clips of five speakers (`spoken_digit` 1.0.9), with which results differ.
`digit` and `speaker` pool the steps of a shared trunk over time; `name` spells what it hears
without being told when (CTC). Single-task models come first. With `--hold-out` each seed tests on
another speaker, of whom it trained on no clip. Everything is written below `keras_mtl_runs/`.
"""

import dataclasses

import comparison  # the files next to this one
import fsdd
import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

import keras_mtl

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
BATCH_SIZE = 32
MULTI = "multi-task"
TRANSCRIPTION = keras_mtl.heads.Transcription(sorted(set("".join(NAMES))))
DIGIT = comparison.Measure("digit_accuracy", "digit accuracy (%)")
MEASURES = (
    DIGIT,
    comparison.Measure("speaker_accuracy", "speaker accuracy (%)"),
    comparison.Measure("name_error_rate", "name error rate (%)", higher_is_better=False),
)


@dataclasses.dataclass(frozen=True)
class Study:
    """What one seed trains on: features and labels of all clips, and the rows of each split."""

    steps: list
    labels: dict
    split: dict
    epochs: int
    seed: int


def standardise(steps, rows):
    """Scales to mean 0 and deviation 1 over the training rows."""
    known = np.concatenate([steps[row] for row in rows])
    return [(clip - known.mean()) / known.std() for clip in steps]


def make_labels(clips):
    """Returns the labels of each task; the speakers are numbered in the order of their names."""
    speakers = sorted({clip.speaker for clip in clips})
    return {
        "digit": np.array([clip.digit for clip in clips]),
        "speaker": np.array([speakers.index(clip.speaker) for clip in clips]),
        "name": TRANSCRIPTION.encode([NAMES[clip.digit] for clip in clips]),
    }


def augment(steps, rng):
    """Says it faster or slower, later, louder or softer, under noise and without a band."""
    length = round(len(steps) * rng.uniform(0.9, 1.1))
    steps = steps[np.linspace(0, len(steps) - 1, length).round().astype(int)]
    silence = rng.integers(3, size=2)  # before and after
    steps = np.pad(steps, (silence, (0, 0)), constant_values=steps.min())
    steps = steps + rng.normal(0, 0.2)
    noise = rng.uniform(-3, -1) + rng.normal(0, 0.2, steps.shape)
    steps = np.maximum(steps, noise)
    width = rng.integers(9)
    first = rng.integers(fsdd.BANDS - width + 1)
    steps[:, first : first + width] = 0
    return steps.astype("float32")


def make_batches(steps, labels, rows, rng=None):
    """Makes batches of clips, padded with 0 to the longest; `rng` shuffles and augments them."""

    def generate():
        for row in rows if rng is None else rng.permutation(rows):
            clip = steps[row] if rng is None else augment(steps[row], rng)
            yield clip, {task: values[row] for task, values in labels.items()}

    specs = {task: tf.TensorSpec(v.shape[1:], v.dtype) for task, v in labels.items()}
    signature = (tf.TensorSpec([None, fsdd.BANDS], "float32"), specs)
    clips = tf.data.Dataset.from_generator(generate, output_signature=signature)
    clips = clips.apply(tf.data.experimental.assert_cardinality(len(rows)))
    return clips.padded_batch(BATCH_SIZE).prefetch(1)


def make_trunk():
    """Makes the shared trunk: convolutions over time, then a recurrent layer from both ends."""
    frames = keras.Input((None, fsdd.BANDS))
    present = ops.any(ops.not_equal(frames, 0.0), axis=-1)
    inside = ops.expand_dims(ops.cast(present, "float32"), -1)
    x = frames
    for _ in range(2):
        x = layers.Conv1D(64, 5, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization()(x, mask=present)
        x = layers.Activation("relu")(x) * inside  # the next block must not hear the padding
        x = layers.SpatialDropout1D(0.2)(x)
    x = layers.Bidirectional(layers.GRU(64, return_sequences=True))(x, mask=present)
    x = layers.Dropout(0.2)(x)
    return keras.Model(frames, {"steps": x, "present": present}, name="trunk")


def make_tasks(num_speakers):
    """Specifies the tasks; all read the steps of the trunk, without the padding."""
    steps = {"features": "steps", "mask": "present"}
    return {
        "digit": keras_mtl.Task(keras_mtl.heads.Classification(len(NAMES)), **steps),
        "speaker": keras_mtl.Task(keras_mtl.heads.Classification(num_speakers), **steps),
        # Of 0.25, 0.5 and 1 validation clips prefer this weight for speakers and names together.
        "name": keras_mtl.Task(TRANSCRIPTION, loss_weight=0.5, **steps),
    }


def train(study, tasks, title):
    """Trains one model for some of the tasks; returns it and the minutes it took."""
    keras.utils.set_random_seed(study.seed)
    labels = {task: study.labels[task] for task in tasks}
    inputs = keras.Input((None, fsdd.BANDS), name="log_mel")
    model = keras_mtl.architectures.hard_sharing(inputs, make_trunk(), tasks)
    rng = np.random.default_rng(study.seed)
    batches = make_batches(study.steps, labels, study.split["train"], rng)
    # A schedule instead of early stopping: 300 clips are too few to tell the best epoch.
    rate = keras.optimizers.schedules.CosineDecay(3e-3, study.epochs * len(batches))
    model.compile(keras.optimizers.Adam(rate))
    _, minutes = comparison.fit(
        model,
        batches,
        validation_data=make_batches(study.steps, labels, study.split["validation"]),
        validation_freq=4,
        epochs=study.epochs,
        title=f"{title}: {', '.join(tasks)}",
    )
    return model, minutes


def measure(study, model):
    """Returns what the heads' own metrics say on the test rows, in percent."""
    labels = {task: study.labels[task] for task in model.output}
    batches = make_batches(study.steps, labels, study.split["test"])
    logs = model.evaluate(batches, return_dict=True, verbose=0)
    return {m.key: 100 * logs[m.key] for m in MEASURES if m.key in logs}


def run_seed(study, tasks, baselines):
    """Trains a model for each of the baselines, then one for all tasks.

    Returns what they reach on the test rows, and the model for all tasks.
    """
    single = {comparison.MINUTES: 0.0}
    for task in baselines:
        model, minutes = train(study, {task: tasks[task]}, comparison.SINGLE)
        single.update(measure(study, model))
        single[comparison.MINUTES] += minutes
    model, minutes = train(study, tasks, MULTI)
    shared = {**measure(study, model), comparison.MINUTES: minutes}
    return {comparison.SINGLE: single, MULTI: shared}, model


def draw_spelling(axes, model, clip):
    """Draws the letters that the model hears at each step of a clip: mostly none."""
    spelt = model.predict(clip[None], verbose=0)["name"][0]
    axes.imshow(spelt.T, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_yticks(range(spelt.shape[1]), ["blank", *TRANSCRIPTION.vocabulary], fontsize=8)
    text = TRANSCRIPTION.texts(TRANSCRIPTION.decode(spelt[None]))[0]
    axes.set(xlabel="steps of 16 ms", title=f"A test clip, spelt: {text}")


def parse(arguments):
    """Reads the command line."""

    def add_hold_out(parser):
        parser.add_argument("--hold-out", action="store_true", help="test on unknown speakers")

    return comparison.parse(
        __doc__.splitlines()[0],
        arguments,
        data="tar file or folder of wav files; by default spoken_digit of TensorFlow Datasets",
        epochs=20,
        data_required=False,
        add_arguments=add_hold_out,
    )


def make_splits(clips, options):
    """Returns the rows of each split, seed by seed, checked before anything is trained."""
    if options.hold_out:
        return [fsdd.hold_out(clips, seed) for seed in range(options.seeds)]
    split = fsdd.official_split(clips)
    fsdd.check_splits(split)
    return [split] * options.seeds


def main(arguments=None):
    """Trains, compares, draws; returns the rows, the table and the folder."""
    options = parse(arguments)
    clips = fsdd.read_clips(options.data) if options.data else fsdd.read_tfds()
    splits = make_splits(clips, options)
    decibels, labels = fsdd.log_mel(clips), make_labels(clips)
    tasks = make_tasks(int(labels["speaker"].max()) + 1)

    def run(seed):
        split = splits[seed]
        if options.quick:
            split = {**split, "train": split["train"][::10]}
        steps = standardise(decibels, split["train"])
        study = Study(steps, labels, split, options.epochs, seed)
        results, model = run_seed(study, tasks, ["digit"] if options.hold_out else tasks)
        return results, (model, steps[split["test"][0]])

    name = "spoken_digits_hold_out" if options.hold_out else "spoken_digits"
    rows, folder, shown = comparison.repeat_and_keep(name, run, options.seeds)
    measures = [DIGIT] if options.hold_out else MEASURES
    return comparison.report(
        name, rows, measures, folder, [lambda axes: draw_spelling(axes, *shown)]
    )


if __name__ == "__main__":
    main()
