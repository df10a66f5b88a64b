"""What the examples on sentences share: words and letters as ids, and the trunk that reads them."""

import collections
import dataclasses

import keras
import numpy as np
import tensorflow as tf
from keras import layers

LONGEST_WORD = 16  # letters; the rest of a longer word is cut off
UNKNOWN = 1  # the id of words and letters without one of their own; 0 is padding
WORD_DROPOUT = 0.1
LSTM_UNITS = 128
# Padding by input and, as missing labels, by task.
PADDING = {"words": tf.constant(0, "int32"), "letters": tf.constant(0, "int32")}
MISSING = tf.constant(-1, "int32")


@dataclasses.dataclass(frozen=True)
class Sentences:
    """Sentences in the order of the file: words, a tag a word, and an intent each, if any."""

    words: list[list[str]]
    tags: list[list[str]]
    intents: list[str] = ()

    def __getitem__(self, rows):
        return Sentences(self.words[rows], self.tags[rows], self.intents[rows])


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Words, in lower case, and letters that have an id of their own."""

    words: list[str]
    letters: list[str]


def read_lines(path):
    """Returns the words of each line of a text file."""
    if not path.is_file():
        raise ValueError(f"{path} is missing: each split needs `seq.in`, `seq.out` and `label`.")
    return [line.split() for line in path.read_text(encoding="utf-8").splitlines()]


def read_snips(folder):
    """Reads a split of SNIPS, and refuses tags that do not match the words."""
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


def collect_vocabulary(sentences):
    """Lists the words and letters of training sentences."""
    words = [word for sentence in sentences for word in sentence]
    counts = collections.Counter(word.lower() for word in words)
    # A word seen once stays unknown, so that there are unknown ones to learn from.
    return Vocabulary(sorted(x for x in counts if counts[x] > 1), sorted(set("".join(words))))


def numbered(kind, labels, names):
    """Returns the ids of labels, which must be among those of the training sentences."""
    unknown = sorted(set(labels) - set(names))
    if unknown:
        raise ValueError(f"The training sentences have no {kind} {unknown}.")
    ids = {name: number for number, name in enumerate(names)}
    return np.array([ids[label] for label in labels], "int32")


def flat(lists):
    """Returns what stands in the lists, one after the other."""
    return [item for part in lists for item in part]


def by_sentence(ids, words):
    """Cuts ids of words that follow one another into sentences."""
    lengths = [len(sentence) for sentence in words]
    return tf.RaggedTensor.from_row_lengths(tf.cast(ids, "int32"), lengths)


def encode_words(words, vocabulary):
    """Returns the ids of words, and of the letters of each word, by sentence."""
    # With a mask token 0 is the padding, which comes later, and 1 what is unknown.
    word_ids = layers.StringLookup(vocabulary=vocabulary.words, mask_token="")
    letter_ids = layers.StringLookup(vocabulary=vocabulary.letters, mask_token="")
    letters = tf.strings.unicode_split(flat(words), "UTF-8")
    letters = letters.to_tensor("", shape=[None, LONGEST_WORD])
    lower = tf.constant([word.lower() for word in flat(words)])
    return {
        "words": by_sentence(word_ids(lower), words),
        "letters": by_sentence(letter_ids(letters), words),
    }


def encode_tags(sentences, names):
    """Returns the ids of tags by sentence."""
    return by_sentence(numbered("tag", flat(sentences.tags), names), sentences.words)


def forget_words(inputs, labels):
    """Makes some words unknown, which are then told from their letters and neighbours."""
    words = inputs["words"]
    forgotten = tf.random.uniform(tf.shape(words)) < WORD_DROPOUT
    return {**inputs, "words": tf.where(forgotten, UNKNOWN, words)}, labels


def make_inputs():
    """Makes the inputs of a model: ids of words, and of the letters of each word."""
    return {
        "words": keras.Input((None,), dtype="int32", name="words"),
        "letters": keras.Input((None, LONGEST_WORD), dtype="int32", name="letters"),
    }


def make_trunk(vocabulary):
    """Makes the shared trunk: what a word is, how it is spelt, and what stands around it."""
    inputs = make_inputs()
    word = layers.Embedding(len(vocabulary.words) + 2, 100)(inputs["words"])
    letter = layers.Embedding(len(vocabulary.letters) + 2, 32)(inputs["letters"])
    spelling = layers.Conv2D(64, (1, 3), padding="same", activation="relu")(letter)
    spelling = keras.ops.max(spelling, axis=2)
    x = layers.Dropout(0.4)(layers.Concatenate()([word, spelling]))
    # The mask of the padding goes along to the heads. It is given here, because Concatenate loses
    # that of `mask_zero=True` where it joins words with letters, which have none.
    present = keras.ops.not_equal(inputs["words"], 0)
    x = layers.Bidirectional(layers.LSTM(LSTM_UNITS, return_sequences=True))(x, mask=present)
    return keras.Model(inputs, layers.Dropout(0.4)(x), name="trunk")
