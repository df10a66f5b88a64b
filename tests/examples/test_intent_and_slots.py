"""Intent and slots: both tasks are measured sentence by sentence."""

import keras
import numpy as np
import pytest
from seqeval.metrics import f1_score

pytestmark = pytest.mark.usefixtures("small_trunk")


@pytest.fixture(scope="module")
def intent(example):
    return example("intent_and_slots")


@pytest.fixture(scope="module")
def finished(intent, snips, quick, small_trunk):
    # One weighting stands for all: each model costs seconds to trace.
    methods = {"uncertainty": intent.METHODS["uncertainty"]}
    return quick("intent_and_slots", "--data", snips, METHODS=methods)


def test_report_has_a_row_a_method_and_a_column_a_measure(finished):
    assert list(finished["rows"]) == ["single task", "uncertainty"]
    for row in finished["rows"].values():
        assert list(row) == ["intent_accuracy", "slots_f1", "both_right", "minutes"]
        # Both can be right only where the intent is.
        assert 0 <= row["both_right"][0] <= row["intent_accuracy"][0] <= 100
        assert row["minutes"][0] > 0
    written = {path.name for path in finished["folder"].iterdir()}
    assert written == {"results.json", "table.md", "intent_and_slots.png"}


def test_labels_come_from_training_sentences(intent):
    train = intent.sentences.Sentences(
        [["rain", "in", "paris"], ["play"]], [["O", "O", "B-city"], ["O"]], ["Weather", "Music"]
    )
    names = intent.collect_names(train)
    assert names.tags == ["B-city", "O"]
    assert names.intents == ["Music", "Weather"]


def test_rows_hold_ids_of_words_and_of_labels(intent):
    vocabulary = intent.sentences.Vocabulary(["in", "rain"], ["a", "i", "n", "r"])
    names = intent.Names(vocabulary, ["B-city", "O"], ["Ask", "Tell"])
    part = intent.sentences.Sentences([["rain", "in", "rome"]], [["O", "O", "B-city"]], ["Tell"])
    [(inputs, labels)] = intent.encode(part, names)
    assert inputs["words"].numpy().tolist() == [3, 2, 1]
    assert labels["intent"].numpy() == 1
    assert labels["slots"].numpy().tolist() == [1, 1, 0]


def test_padding_is_missing_and_changes_nothing(intent, snips):
    sentences = intent.sentences.read_snips(snips / "valid")
    names = intent.collect_names(intent.sentences.read_snips(snips / "train"))
    tasks = ("intent", "slots")
    model = intent.make_model(tasks, names)
    [(batch, labels)] = intent.make_batches(intent.encode(sentences, names), tasks)
    [(alone, _)] = intent.make_batches(intent.encode(sentences[2:3], names), tasks)
    together, single = model.predict_on_batch(batch), model.predict_on_batch(alone)

    assert labels["slots"].numpy()[2].tolist()[3:] == [-1]
    np.testing.assert_allclose(together["intent"][2], single["intent"][0], atol=1e-5)
    np.testing.assert_allclose(together["slots"][2, :3], single["slots"][0], atol=1e-5)


def test_words_are_forgotten_in_training_only(intent, snips, monkeypatch):
    monkeypatch.setattr("sentences.WORD_DROPOUT", 1.0)
    sentences = intent.sentences.read_snips(snips / "train")
    rows = intent.encode(sentences, intent.collect_names(sentences))
    for training in (True, False):
        words = next(iter(intent.make_batches(rows, ["intent"], training)))[0]["words"].numpy()
        assert (words.max() == intent.sentences.UNKNOWN) == training
        assert words.min() == 0  # padding stays padding


class FixedModel:
    """Answers with the same predictions whatever it reads."""

    def __init__(self, **predictions):
        self.predictions = {task: np.array(scores) for task, scores in predictions.items()}

    def predict_on_batch(self, inputs):
        return self.predictions


def test_sentences_are_right_as_a_whole(intent):
    vocabulary = intent.sentences.Vocabulary(["a", "b"], ["a", "b"])
    names = intent.Names(vocabulary, ["O", "B-x"], ["Ask", "Tell"])
    sentences = intent.sentences.Sentences(
        [["a", "b"], ["a"], ["a", "b"]],
        [["O", "B-x"], ["O"], ["O", "O"]],
        ["Ask", "Tell", "Tell"],
    )
    # Tags found: right; right, with an entity in the padding; one word of two wrong.
    tags = np.eye(2)[[[0, 1], [0, 1], [0, 1]]]
    model = FixedModel(intent=np.eye(2)[[0, 0, 1]], slots=tags)
    right = intent.right_sentences(model, intent.encode(sentences, names), ("intent", "slots"))
    assert right["intent"].tolist() == [True, False, True]
    assert right["slots"].tolist() == [True, True, False]


def test_slot_f1_is_that_of_seqeval(intent, snips):
    sentences = intent.sentences.read_snips(snips / "test")
    names = intent.collect_names(intent.sentences.read_snips(snips / "train"))
    rows, tasks = intent.encode(sentences, names), ("intent", "slots")
    model = intent.make_model(tasks, names)
    model.compile(keras.optimizers.Adam(0.05))
    model.fit(intent.make_batches(rows, tasks), epochs=12, verbose=0)  # until some are right

    [(inputs, _)] = intent.make_batches(rows, tasks)
    found = model.predict_on_batch(inputs)["slots"].argmax(-1)
    tags = [
        [names.tags[tag] for tag in row[: len(truth)]]
        for row, truth in zip(found, sentences.tags, strict=True)
    ]
    measured = intent.measure({tasks: model}, rows)
    assert measured["slots_f1"] == pytest.approx(100 * f1_score(sentences.tags, tags), abs=1e-3)
    assert measured["slots_f1"] > 0
    exact = [a == b for a, b in zip(tags, sentences.tags, strict=True)]
    assert measured["both_right"] <= 100 * np.mean(exact)


def test_a_missing_file_is_named(intent, tmp_path):
    with pytest.raises(ValueError, match=r"seq\.in is missing"):
        intent.main(["--data", str(tmp_path)])
