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

import collections
import dataclasses
import math
import pathlib

import comparison  # the file next to this one
import keras
import numpy as np
import tensorflow as tf
from keras import layers

import keras_mtl

SPLITS = {"train": "train", "validation": "valid", "test": "test"}
LONGEST_WORD = 16  # letters; the rest of a longer word is cut off
UNKNOWN = 1  # the id of words and letters without one of their own; 0 is padding
BATCH_SIZE = 64
BUCKETS = (7, 9, 11, 14)  # words; bounds between short and long sentences
LEARNING_RATE = 4e-3
WORD_DROPOUT = 0.1
LSTM_UNITS = 128
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
class Sentences:
    """Sentences in the order of the file: words, a tag a word, and an intent each."""

    words: list[list[str]]
    tags: list[list[str]]
    intents: list[str]

    def __getitem__(self, rows):
        return Sentences(self.words[rows], self.tags[rows], self.intents[rows])


@dataclasses.dataclass(frozen=True)
class Names:
    """What ids stand for, all taken from the training sentences."""

    words: list[str]
    letters: list[str]
    tags: list[str]
    intents: list[str]


def read_lines(path):
    """Returns the words of each line of a text file."""
    if not path.is_file():
        raise ValueError(f"{path} is missing: each split needs `seq.in`, `seq.out` and `label`.")
    return [line.split() for line in path.read_text(encoding="utf-8").splitlines()]


def read_sentences(folder):
    """Reads a split, and refuses tags that do not match the words."""
    words, tags, intents = (read_lines(folder / file) for file in ("seq.in", "seq.out", "label"))
    if not len(words) == len(tags) == len(intents):
        raise ValueError(
            f"The files in {folder} must have as many lines as one another: `seq.in` has "
            f"{len(words)}, `seq.out` {len(tags)}, `label` {len(intents)}."
        )
    for line, (sentence, its_tags, intent) in enumerate(zip(words, tags, intents, strict=True), 1):
        if not sentence or len(sentence) != len(its_tags):
            raise ValueError(
                f"{folder / 'seq.out'}, line {line}: {len(its_tags)} tags for the {len(sentence)} "
                f"words of `seq.in`. Each word needs one tag, and a sentence at least one word."
            )
        if len(intent) != 1:
            raise ValueError(f"{folder / 'label'}, line {line}: one intent, received {intent}.")
    return Sentences(words, tags, [intent for [intent] in intents])


def collect_names(train):
    """Lists words, letters, tags and intents of the training sentences."""
    counts = collections.Counter(word for sentence in train.words for word in sentence)
    return Names(
        # A word seen once stays unknown, so that there are unknown ones to learn from.
        words=sorted(word for word, count in counts.items() if count > 1),
        letters=sorted(set("".join(counts))),
        tags=sorted({tag for sentence in train.tags for tag in sentence}),
        intents=sorted(set(train.intents)),
    )


def numbered(kind, labels, names):
    """Returns the ids of labels, which must be among those of the training sentences."""
    unknown = sorted(set(labels) - set(names))
    if unknown:
        raise ValueError(f"The training sentences have no {kind} {unknown}.")
    ids = {name: number for number, name in enumerate(names)}
    return np.array([ids[label] for label in labels], "int32")


def encode(sentences, names):
    """Makes rows `({"words", "letters"}, {"intent", "slots"})` of ids, one a sentence."""
    flat_words = [word for sentence in sentences.words for word in sentence]
    flat_tags = [tag for sentence in sentences.tags for tag in sentence]
    # With a mask token 0 is the padding, which comes later, and 1 what is unknown.
    word_ids = layers.StringLookup(vocabulary=names.words, mask_token="")
    letter_ids = layers.StringLookup(vocabulary=names.letters, mask_token="")
    letters = tf.strings.unicode_split(flat_words, "UTF-8")
    letters = letters.to_tensor("", shape=[None, LONGEST_WORD])
    lengths = [len(sentence) for sentence in sentences.words]

    def by_sentence(ids):
        return tf.RaggedTensor.from_row_lengths(tf.cast(ids, "int32"), lengths)

    inputs = {
        "words": by_sentence(word_ids(tf.constant(flat_words))),
        "letters": by_sentence(letter_ids(letters)),
    }
    labels = {
        "intent": numbered("intent", sentences.intents, names.intents),
        "slots": by_sentence(numbered("tag", flat_tags, names.tags)),
    }
    return tf.data.Dataset.from_tensor_slices((inputs, labels))


def forget_words(inputs, labels):
    """Makes some words unknown, which are then told from their letters and neighbours."""
    words = inputs["words"]
    forgotten = tf.random.uniform(tf.shape(words)) < WORD_DROPOUT
    return {**inputs, "words": tf.where(forgotten, UNKNOWN, words)}, labels


def make_batches(rows, tasks, training=False):
    """Makes batches, padded to the longest sentence: inputs with 0, tags as missing."""
    rows = rows.map(lambda inputs, labels: (inputs, {task: labels[task] for task in tasks}))
    missing = {task: tf.constant(-1, "int32") for task in tasks}
    padding = ({"words": tf.constant(0, "int32"), "letters": tf.constant(0, "int32")}, missing)
    if not training:
        return rows.padded_batch(BATCH_SIZE, padding_values=padding)
    # Sentences of about one length go together: half of the steps would be padding otherwise.
    return (
        rows.shuffle(len(rows))
        .repeat()  # without an end, so that no batch is smaller than the others
        .map(forget_words)
        .bucket_by_sequence_length(
            lambda inputs, labels: tf.size(inputs["words"]),
            BUCKETS,
            [BATCH_SIZE] * (len(BUCKETS) + 1),
            padding_values=padding,
        )
        .prefetch(2)
    )


def make_inputs():
    """Makes the inputs of a model: ids of words, and of the letters of each word."""
    return {
        "words": keras.Input((None,), dtype="int32", name="words"),
        "letters": keras.Input((None, LONGEST_WORD), dtype="int32", name="letters"),
    }


def make_trunk(names):
    """Makes the shared trunk: what a word is, how it is spelt, and what stands around it."""
    inputs = make_inputs()
    word = layers.Embedding(len(names.words) + 2, 100)(inputs["words"])
    letter = layers.Embedding(len(names.letters) + 2, 32)(inputs["letters"])
    spelling = layers.Conv2D(64, (1, 3), padding="same", activation="relu")(letter)
    spelling = keras.ops.max(spelling, axis=2)
    x = layers.Dropout(0.4)(layers.Concatenate()([word, spelling]))
    # The mask of the padding goes along to the heads. It is given here, because Concatenate loses
    # that of `mask_zero=True` where it joins words with letters, which have none.
    present = keras.ops.not_equal(inputs["words"], 0)
    x = layers.Bidirectional(layers.LSTM(LSTM_UNITS, return_sequences=True))(x, mask=present)
    return keras.Model(inputs, layers.Dropout(0.4)(x), name="trunk")


def make_model(tasks, names):
    """Builds a model for some of the tasks; every one has a trunk of the same size."""
    heads = {
        "intent": keras_mtl.heads.Classification(len(names.intents), pooling="max"),
        "slots": keras_mtl.heads.Tagging(len(names.tags), tags=names.tags, crf=True),
    }
    chosen = {task: heads[task] for task in tasks}
    return keras_mtl.architectures.hard_sharing(make_inputs(), make_trunk(names), chosen)


def train(tasks, data, names, epochs, title, baselines=None, **balancing):
    """Trains a model and keeps its best epoch on validation; returns also history and minutes."""
    model = make_model(tasks, names)
    steps = math.ceil(len(data["train"]) / BATCH_SIZE)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, epochs * steps, alpha=0.01)
    model.compile(keras.optimizers.Adam(rate, clipnorm=5.0), baselines=baselines, **balancing)
    # With several tasks, by the mean gain over the single-task models.
    monitor = "val_delta_m" if baselines else f"val_{MONITORS[tasks[0]]}"
    best = keras.callbacks.EarlyStopping(
        monitor, mode="max", patience=epochs, restore_best_weights=True
    )
    history, minutes = comparison.fit(
        model,
        make_batches(data["train"], tasks, training=True),
        title=f"{title}: {', '.join(tasks)}",
        validation_data=make_batches(data["validation"], tasks),
        epochs=epochs,
        steps_per_epoch=steps,
        callbacks=[best],
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
        __doc__.splitlines()[0], arguments, data="folder with train, valid and test", epochs=6
    )
    root = pathlib.Path(options.data)
    sentences = {split: read_sentences(root / folder) for split, folder in SPLITS.items()}
    if options.quick:
        sentences = {split: part[:QUICK_ROWS] for split, part in sentences.items()}
    names = collect_names(sentences["train"])
    data = {split: encode(part, names) for split, part in sentences.items()}
    rows, folder = comparison.repeat(
        "intent_and_slots",
        lambda seed: run_seed(data, names, options.epochs, seed),
        options.seeds,
    )
    return comparison.report("intent_and_slots", rows, MEASURES, folder)


if __name__ == "__main__":
    main()
