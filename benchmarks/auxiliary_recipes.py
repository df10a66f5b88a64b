"""The data, networks and scores of `auxiliary_tasks.py`: SNIPS and scikit-learn's digits.

All labels are known at first; `Rows.hidden` takes most of the main task's away. Batches drawn at
random would often hold none of those that are left, so `draw_batches` gives each batch the same
number of them. They come first, so that the two halves into which `auto_lambda` and `auxilearn`
split a batch, by every other row, have equally many.
"""

import collections
import dataclasses
import functools
import pathlib
import zlib
from collections.abc import Callable, Iterable, Sequence

import keras
import numpy as np
from keras import layers

import keras_mtl

LABELLED, OTHERS = 16, 48  # rows of a batch: with a label of the main task, and any
SIDE = 8  # of a digit, in pixels
SENTENCES = 2_400  # for training; all 13,084 would take five times as long
MAX_WORDS = 24  # 7 training sentences are longer, and no other
VOCABULARY = 5_000  # padding, unknown, and the most frequent words


@dataclasses.dataclass(frozen=True)
class Rows:
    """Inputs, as the model takes them, and labels by task, of one split."""

    inputs: np.ndarray | dict[str, np.ndarray]
    labels: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.labels.values())))

    def taken(self, rows: np.ndarray) -> "Rows":
        """Returns some of the rows."""
        parts = (self.inputs, self.labels)
        return Rows(*keras.tree.map_structure(lambda values: values[rows], parts))

    def hidden(self, task: str, labelled: np.ndarray) -> "Rows":
        """Returns the rows with a class of one task for `labelled` alone; -1 means "no label"."""
        classes = np.full_like(self.labels[task], -1)
        classes[labelled] = self.labels[task][labelled]
        return Rows(self.inputs, {**self.labels, task: classes})

    def checksum(self) -> int:
        """Returns a number that changes with the inputs."""
        return zlib.crc32(b"".join(part.tobytes() for part in keras.tree.flatten(self.inputs)))


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is trained on one data set.

    Args:
        scenarios: Pairs of a main task and the auxiliary one that is to help it.
        balanced_by: String. Task whose classes get the same number of labelled rows each.
        amounts: Integers. How many rows have a label of the main task.
        epochs: Integer.
        learning_rate: Float, of Adam.
        load: Function from the path of the data and a seed to rows by split.
        build: Function from tasks, the main one first, to a model.
    """

    scenarios: tuple[tuple[str, str], ...]
    balanced_by: str
    amounts: tuple[int, ...]
    epochs: int
    learning_rate: float
    load: Callable[[str | None, int], dict[str, Rows]]
    build: Callable[[Sequence[str]], keras_mtl.MultiTaskModel]


def balanced_order(classes: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Orders rows at random so that any first n hold each class equally often, or once more."""
    order = random.permutation(len(classes))
    ranks = np.empty(len(classes), int)
    for label in np.unique(classes):
        members = order[classes[order] == label]
        ranks[members] = np.arange(len(members))
    return np.lexsort((random.permutation(len(classes)), ranks))


def draw_batches(
    labelled: np.ndarray, rows: int, epochs: int, random: np.random.Generator
) -> np.ndarray:
    """Draws the rows of each batch, `(epochs * steps, LABELLED + OTHERS)`.

    An epoch goes through all rows once, less a remainder, `OTHERS` a batch; labelled rows go round
    beside them, `LABELLED` a batch. Both are shuffled for each pass.
    """
    steps = rows // OTHERS
    others = [random.permutation(rows)[: steps * OTHERS] for _ in range(epochs)]
    needed = epochs * steps * LABELLED
    passes = [random.permutation(labelled) for _ in range(-(-needed // len(labelled)))]
    parts = np.concatenate(passes)[:needed], np.concatenate(others)
    return np.concatenate([part.reshape(epochs * steps, -1) for part in parts], axis=1)


def slot_spans(tags: Iterable[int]) -> set[tuple[int, int, int]]:
    """Returns start, end and kind of each slot; as in conlleval, one may begin without a B-."""
    found, start, kind = set(), 0, 0
    for place, tag in enumerate([*tags, 0]):
        inside = tag > 0 and tag % 2 == 0 and tag // 2 == kind
        if not inside:
            if kind:
                found.add((start, place, kind))
            start, kind = place, (tag + 1) // 2
    return found


def slot_f1(tags: np.ndarray, predicted: np.ndarray) -> float:
    """Returns the F1 of whole slots, in percent; tags < 0 are padding."""
    hits = total = 0
    for expected, found in zip(tags, predicted, strict=True):
        length = int(np.sum(expected >= 0))
        spans = [slot_spans(row[:length].tolist()) for row in (expected, found)]
        hits += len(spans[0] & spans[1])
        total += len(spans[0]) + len(spans[1])
    return 200 * hits / total if total else 100.0


def score(task: str, rows: Rows, predictions: np.ndarray) -> float:
    """Returns the F1 of `slots`, the accuracy of other tasks, in percent."""
    classes = predictions.argmax(-1)
    if task == "slots":
        return slot_f1(rows.labels[task], classes)
    return 100 * float(np.mean(classes == rows.labels[task]))


def load_digits(path: str | None, seed: int) -> dict[str, Rows]:
    """Returns three, one and one fifth of the digits that ship with scikit-learn."""
    del path
    from sklearn import datasets

    digits = datasets.load_digits()
    random = np.random.default_rng(seed)
    pixels = digits.data.astype("float32") / 16
    rows = Rows(
        pixels.reshape(-1, SIDE, SIDE, 1),
        {
            "digit": digits.target,
            "parity": digits.target % 2,
            "pixels": pixels,
            "noise": random.integers(10, size=len(pixels)),
        },
    )
    fifth = len(pixels) // 5
    parts = np.split(random.permutation(len(pixels)), [fifth, 2 * fifth])
    names = ("test", "validation", "train")
    return {name: rows.taken(part) for name, part in zip(names, parts, strict=True)}


def build_digits(tasks: Sequence[str]) -> keras_mtl.MultiTaskModel:
    """Builds two convolutions and a dense layer."""
    heads = {
        "digit": keras_mtl.heads.Classification(10),
        "parity": keras_mtl.heads.Classification(2),
        "noise": keras_mtl.heads.Classification(10),
        "pixels": keras_mtl.Task(
            keras_mtl.heads.Regression(SIDE**2, activation="sigmoid"), loss="binary_crossentropy"
        ),
    }
    trunk = [
        layers.Conv2D(32, 3, padding="same", activation="relu"),
        layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
        layers.Flatten(),
        layers.Dropout(0.3),
        layers.Dense(64, activation="relu"),
    ]
    inputs = keras.Input((SIDE, SIDE, 1), name="image")
    return keras_mtl.architectures.hard_sharing(inputs, trunk, with_roles(tasks, heads))


@functools.cache
def read_snips(path: str) -> dict[str, Rows]:
    """Reads SNIPS; a tag is 0 outside slots, 2k - 1 where slot k begins, and 2k inside it."""
    texts = {split: read_split(pathlib.Path(path) / split) for split in ("train", "valid", "test")}
    sentences, tags, intents = texts["train"]
    counts = collections.Counter(word for sentence in sentences for word in sentence)
    kinds = sorted({tag[2:] for row in tags for tag in row if tag != "O"})
    starts = {f"B-{kind}": 2 * number - 1 for number, kind in enumerate(kinds, 1)}
    insides = {f"I-{kind}": 2 * number for number, kind in enumerate(kinds, 1)}
    codes = (
        {word: number for number, (word, _) in enumerate(counts.most_common(VOCABULARY - 2), 2)},
        {"O": 0, **starts, **insides},
        {intent: number for number, intent in enumerate(sorted(set(intents)))},
    )
    return {split: encode(*text, *codes) for split, text in texts.items()}


def read_split(folder: pathlib.Path) -> tuple[list[list[str]], list[list[str]], list[str]]:
    """Reads the words, the tags and the intent of each sentence of one split."""
    words, tags, intents = (
        (folder / name).read_text(encoding="utf-8").splitlines()
        for name in ("seq.in", "seq.out", "label")
    )
    split = (
        [line.split()[:MAX_WORDS] for line in words],
        [line.split()[:MAX_WORDS] for line in tags],
    )
    return *split, [intent.strip() for intent in intents]


def encode(
    sentences: list[list[str]],
    tags: list[list[str]],
    intents: list[str],
    word_ids: dict[str, int],
    tag_ids: dict[str, int],
    intent_ids: dict[str, int],
) -> Rows:
    """Turns text into numbers; a word is 0 for padding, and 1 where it has no number."""
    words = np.zeros((len(sentences), MAX_WORDS), "int32")
    slots = np.full((len(sentences), MAX_WORDS), -1)
    for row, (sentence, tagged) in enumerate(zip(sentences, tags, strict=True)):
        words[row, : len(sentence)] = [word_ids.get(word, 1) for word in sentence]
        slots[row, : len(tagged)] = [tag_ids[tag] for tag in tagged]
    intent = np.array([intent_ids[name] for name in intents])
    return Rows({"words": words, "present": words > 0}, {"intent": intent, "slots": slots})


def load_snips(path: str | None, seed: int) -> dict[str, Rows]:
    """Returns the published splits, of the training sentences a random part."""
    rows = read_snips(path)
    part = np.random.default_rng(seed).permutation(len(rows["train"]))[:SENTENCES]
    return {
        "train": rows["train"].taken(part),
        "validation": rows["valid"],
        "test": rows["test"],
    }


def build_snips(tasks: Sequence[str]) -> keras_mtl.MultiTaskModel:
    """Builds embeddings and two convolutions over words."""
    heads = {
        "intent": keras_mtl.Task(keras_mtl.heads.Classification(7), mask="present"),
        "slots": keras_mtl.Task(keras_mtl.heads.Classification(79, pooling=None), mask="present"),
    }
    inputs = {
        "words": keras.Input((MAX_WORDS,), dtype="int32", name="words"),
        "present": keras.Input((MAX_WORDS,), dtype="bool", name="present"),
    }
    trunk = [
        layers.Embedding(VOCABULARY, 64),
        layers.Dropout(0.3),
        layers.Conv1D(64, 3, padding="same", activation="relu"),
        layers.Conv1D(64, 3, padding="same", activation="relu"),
        layers.Dropout(0.3),
    ]
    return keras_mtl.architectures.hard_sharing(inputs, trunk, with_roles(tasks, heads))


def with_roles(tasks: Sequence[str], heads: dict[str, object]) -> dict[str, keras_mtl.Task]:
    """Returns the tasks in order; all but the first only help."""
    chosen = {task: keras_mtl.Task.of(heads[task]) for task in tasks}
    for task in tasks[1:]:
        chosen[task].auxiliary = True
    return chosen


RECIPES = {
    "snips": Recipe(
        scenarios=(("intent", "slots"), ("slots", "intent")),
        balanced_by="intent",
        amounts=(50, 500),
        epochs=8,
        learning_rate=3e-3,
        load=load_snips,
        build=build_snips,
    ),
    "digits": Recipe(
        scenarios=(("digit", "parity"), ("digit", "pixels"), ("digit", "noise")),
        balanced_by="digit",
        amounts=(20, 100),
        epochs=12,
        learning_rate=4e-3,
        load=load_digits,
        build=build_digits,
    ),
}
