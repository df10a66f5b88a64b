"""Understands a spoken command: what is wanted, and which words say of what, by one network.

    python examples/intent_and_slots.py --data snips             # one seed, on the official split
    python examples/intent_and_slots.py --data snips --seeds 3   # mean and deviation
    python examples/intent_and_slots.py --data snips --quick     # seconds, to try it out

The data is SNIPS (Coucke et al. 2018, arXiv:1805.10190; CC0), as split by Goo et al. 2018:
https://github.com/MiuLab/SlotGated-SLU/tree/master/data/snips. `--data` is the folder with `train`,
`valid` and `test`, each with `seq.in`, `seq.out` and `label`. `intent` is one of 7 classes of the
sentence, `slots` a tag a word (BIO, 39 types). Both read one trunk: words and their letters under
a bidirectional LSTM. Single-task models come first; no vectors are pretrained. The epoch is chosen
on validation sentences. Everything is written below `keras_mtl_runs/`.
"""

import dataclasses
import math
import pathlib

import comparison  # the files next to this one
import keras
import numpy as np
import sentences
import tensorflow as tf

import keras_mtl

SPLITS = {"train": "train", "validation": "valid", "test": "test"}
BATCH_SIZE = 64
BUCKETS = (7, 9, 11, 14)  # words; bounds between short and long sentences
LEARNING_RATE = 4e-3
QUICK_ROWS = 500  # sentences of each split
METHODS = {
    "fixed": {"loss_weighting": "fixed"},
    "uncertainty": {"loss_weighting": "uncertainty"},
}
# What a model is chosen by on validation, and compared in on test.
MONITORS = {"intent": "intent_accuracy", "slots": "slots_f1"}
MEASURES = (
    comparison.Measure("intent_accuracy", "intent accuracy (%)"),
    comparison.Measure("slots_f1", "slot F1 (%)"),
    comparison.Measure("both_right", "both right (%)"),
)


@dataclasses.dataclass(frozen=True)
class Names:
    """What ids stand for, all taken from the training sentences."""

    vocabulary: sentences.Vocabulary
    tags: list[str]
    intents: list[str]


def collect_names(train):
    """Lists words, letters, tags and intents of the training sentences."""
    return Names(
        sentences.collect_vocabulary(train.words),
        tags=sorted(set(sentences.flat(train.tags))),
        intents=sorted(set(train.intents)),
    )


def encode(part, names):
    """Makes rows `({"words", "letters"}, {"intent", "slots"})` of ids, one a sentence."""
    labels = {
        "intent": sentences.numbered("intent", part.intents, names.intents),
        "slots": sentences.encode_tags(part, names.tags),
    }
    inputs = sentences.encode_words(part.words, names.vocabulary)
    return tf.data.Dataset.from_tensor_slices((inputs, labels))


def make_batches(rows, tasks, training=False):
    """Makes batches, padded to the longest sentence: inputs with 0, tags as missing."""
    rows = rows.map(lambda inputs, labels: (inputs, {task: labels[task] for task in tasks}))
    padding = (sentences.PADDING, dict.fromkeys(tasks, sentences.MISSING))
    if not training:
        return rows.padded_batch(BATCH_SIZE, padding_values=padding)
    # Sentences of about one length go together: half of the steps would be padding otherwise.
    return (
        rows.shuffle(len(rows))
        .repeat()  # without an end, so that no batch is smaller than the others
        .map(sentences.forget_words)
        .bucket_by_sequence_length(
            lambda inputs, labels: tf.size(inputs["words"]),
            BUCKETS,
            [BATCH_SIZE] * (len(BUCKETS) + 1),
            padding_values=padding,
        )
        .prefetch(2)
    )


def make_model(tasks, names):
    """Builds a model for some of the tasks; every one has a trunk of the same size."""
    heads = {
        "intent": keras_mtl.heads.Classification(len(names.intents), pooling="max"),
        "slots": keras_mtl.heads.Tagging(len(names.tags), tags=names.tags, crf=True),
    }
    chosen = {task: heads[task] for task in tasks}
    trunk = sentences.make_trunk(names.vocabulary)
    return keras_mtl.architectures.hard_sharing(sentences.make_inputs(), trunk, chosen)


def train(tasks, data, names, epochs, title, baselines=None, **balancing):
    """Trains a model and keeps its best epoch on validation; returns also history and minutes."""
    model = make_model(tasks, names)
    steps = math.ceil(len(data["train"]) / BATCH_SIZE)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, epochs * steps, alpha=0.01)
    model.compile(keras.optimizers.Adam(rate, clipnorm=5.0), baselines=baselines, **balancing)
    # With several tasks, by the mean gain over the single-task models.
    monitor = "val_delta_m" if baselines else f"val_{MONITORS[tasks[0]]}"
    history, minutes = comparison.fit(
        model,
        make_batches(data["train"], tasks, training=True),
        title=f"{title}: {', '.join(tasks)}",
        validation_data=make_batches(data["validation"], tasks),
        epochs=epochs,
        steps_per_epoch=steps,
        callbacks=[comparison.keep_best(monitor, epochs)],
    )
    return model, history, minutes


def right_sentences(model, rows, tasks):
    """Returns, for each task of the model, which sentences it gets right as a whole."""
    right = {task: [] for task in tasks}
    for inputs, labels in make_batches(rows, tasks):
        predictions = model.predict_on_batch(inputs)
        for task in tasks:
            truth = labels[task].numpy()
            # Padding has the label -1, and is right whatever it got.
            found = (predictions[task].argmax(-1) == truth) | (truth < 0)
            right[task].extend(found.reshape(len(found), -1).all(axis=1))
    return {task: np.array(sentences) for task, sentences in right.items()}


def measure(models, rows):
    """Measures the models, one a task or one for both, in percent."""
    row, right = {}, {}
    for tasks, model in models.items():
        logs = model.evaluate(make_batches(rows, tasks), return_dict=True, verbose=0)
        row |= {MONITORS[task]: 100 * logs[MONITORS[task]] for task in tasks}
        right |= right_sentences(model, rows, tasks)
    return {**row, "both_right": 100 * float(np.mean(right["intent"] & right["slots"]))}


def run_seed(data, names, epochs, seed):
    """Trains every model once; returns what they reach on test sentences."""
    singles, baselines, total = {}, {}, 0.0
    for task, monitor in MONITORS.items():
        keras.utils.set_random_seed(seed)
        model, history, minutes = train((task,), data, names, epochs, comparison.SINGLE)
        singles[(task,)], total = model, total + minutes
        # Above 0, since gains are relative to it, and an F1 of 0 is what it begins with.
        baselines[monitor] = max(0.01, *history[f"val_{monitor}"])
    rows = {comparison.SINGLE: {**measure(singles, data["test"]), comparison.MINUTES: total}}
    tasks = tuple(MONITORS)
    for method, balancing in METHODS.items():
        keras.utils.set_random_seed(seed)
        model, _, minutes = train(tasks, data, names, epochs, method, baselines, **balancing)
        measured = measure({tasks: model}, data["test"])
        rows[method] = {**measured, comparison.MINUTES: minutes}
    return rows


def main(arguments=None):
    """Trains and compares on each seed; returns the rows, the table and the folder."""
    options = comparison.parse(
        __doc__.splitlines()[0], arguments, data="folder with train, valid and test", epochs=8
    )
    root = pathlib.Path(options.data)
    parts = {split: sentences.read_snips(root / folder) for split, folder in SPLITS.items()}
    names = collect_names(parts["train"])
    limit = QUICK_ROWS if options.quick else None
    data = {split: encode(part[:limit], names) for split, part in parts.items()}
    rows, folder = comparison.repeat(
        "intent_and_slots",
        lambda seed: run_seed(data, names, options.epochs, seed),
        options.seeds,
    )
    return comparison.report("intent_and_slots", rows, MEASURES, folder)


if __name__ == "__main__":
    main()
