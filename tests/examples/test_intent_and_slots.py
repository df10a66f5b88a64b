"""Intent and slots: SNIPS is read as it is, and both tasks are measured sentence by sentence."""

import keras
import numpy as np
import pytest
from seqeval.metrics import f1_score

SENTENCES = (
    ("play jazz on spotify", "O B-genre O B-service", "PlayMusic"),
    ("play some hard rock", "O O B-genre I-genre", "PlayMusic"),
    ("rain in paris", "O O B-city", "GetWeather"),
    ("rain in new york", "O O B-city I-city", "GetWeather"),
)


def write_split(folder, sentences):
    folder.mkdir(parents=True)
    for file, column in zip(
        ("seq.in", "seq.out", "label"), zip(*sentences, strict=True), strict=True
    ):
        # Some lines of the real files end with a space.
        (folder / file).write_text("".join(f"{line} \n" for line in column), encoding="utf-8")


@pytest.fixture
def intent(example):
    return example("intent_and_slots")


@pytest.fixture(scope="module")
def snips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("snips")
    write_split(folder / "train", SENTENCES * 4)
    write_split(folder / "valid", SENTENCES)
    # `tokyo` and its letters k and z are in no training sentence.
    write_split(folder / "test", [*SENTENCES, ("rain in tokyoz", "O O B-city", "GetWeather")])
    return folder


@pytest.fixture(scope="module")
def finished(example, snips, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("run"))
        patch.setattr(example("intent_and_slots"), "LSTM_UNITS", 8)
        # One weighting stands for all: each model costs seconds to trace.
        patch.delitem(example("intent_and_slots").METHODS, "fixed")
        result = example("intent_and_slots").main(["--data", str(snips), "--quick"])
        yield {**result, "folder": result["folder"].resolve()}


def test_report_has_a_row_a_method_and_a_column_a_measure(finished):
    assert list(finished["rows"]) == ["single task", "uncertainty"]
    for row in finished["rows"].values():
        assert list(row) == ["intent_accuracy", "slots_f1", "both_right", "minutes"]
        # Both can be right only where the intent is.
        assert 0 <= row["both_right"][0] <= row["intent_accuracy"][0] <= 100
        assert row["minutes"][0] > 0
    written = {path.name for path in finished["folder"].iterdir()}
    assert written == {"results.json", "table.md", "intent_and_slots.png"}


def test_sentences_are_read_line_by_line(intent, snips):
    sentences = intent.read_sentences(snips / "valid")
    assert sentences.words[1] == ["play", "some", "hard", "rock"]
    assert sentences.tags[1] == ["O", "O", "B-genre", "I-genre"]
    assert sentences.intents == ["PlayMusic", "PlayMusic", "GetWeather", "GetWeather"]


def test_names_come_from_training_sentences_and_rare_words_stay_unknown(intent, snips):
    train = intent.Sentences(
        [["rain", "in", "paris"], ["rain", "in", "rome"]],
        [["O", "O", "B-city"]] * 2,
        ["GetWeather"] * 2,
    )
    names = intent.collect_names(train)
    assert names.words == ["in", "rain"]
    assert names.letters == sorted(set("raininparisrome"))
    assert names.tags == ["B-city", "O"]
    assert names.intents == ["GetWeather"]


def test_rows_hold_ids_of_words_letters_and_labels(intent):
    names = intent.Names(["in", "rain"], ["a", "i", "n", "r"], ["B-city", "O"], ["Ask", "Tell"])
    sentences = intent.Sentences([["rain", "in", "minä"]], [["O", "O", "B-city"]], ["Tell"])
    [(inputs, labels)] = intent.encode(sentences, names)
    assert inputs["words"].numpy().tolist() == [3, 2, 1]
    assert inputs["letters"].shape == (3, intent.LONGEST_WORD)
    # m and ä are unknown, i and n are not; 0 is padding.
    assert inputs["letters"][2, :6].numpy().tolist() == [1, 3, 4, 1, 0, 0]
    assert labels["intent"].numpy() == 1
    assert labels["slots"].numpy().tolist() == [1, 1, 0]


def test_letters_beyond_the_longest_word_are_cut_off(intent):
    names = intent.Names(["in"], ["a"], ["O"], ["Ask"])
    [(inputs, _)] = intent.encode(intent.Sentences([["a" * 40]], [["O"]], ["Ask"]), names)
    assert inputs["letters"].numpy().tolist() == [[2] * intent.LONGEST_WORD]


def test_padding_is_missing_and_changes_nothing(intent, snips):
    sentences = intent.read_sentences(snips / "valid")
    names = intent.collect_names(intent.read_sentences(snips / "train"))
    tasks = ("intent", "slots")
    model = intent.make_model(tasks, names)
    [(batch, labels)] = intent.make_batches(intent.encode(sentences, names), tasks)
    [(alone, _)] = intent.make_batches(intent.encode(sentences[2:3], names), tasks)
    together, single = model.predict_on_batch(batch), model.predict_on_batch(alone)

    assert labels["slots"].numpy()[2].tolist()[3:] == [-1]
    np.testing.assert_allclose(together["intent"][2], single["intent"][0], atol=1e-5)
    np.testing.assert_allclose(together["slots"][2, :3], single["slots"][0], atol=1e-5)


def test_words_are_forgotten_in_training_only(intent, snips, monkeypatch):
    monkeypatch.setattr(intent, "WORD_DROPOUT", 1.0)
    sentences = intent.read_sentences(snips / "train")
    rows = intent.encode(sentences, intent.collect_names(sentences))
    for training in (True, False):
        words = next(iter(intent.make_batches(rows, ["intent"], training)))[0]["words"].numpy()
        assert (words.max() == intent.UNKNOWN) == training
        assert words.min() == 0  # padding stays padding


class FixedModel:
    """Answers with the same predictions whatever it reads."""

    def __init__(self, **predictions):
        self.predictions = {task: np.array(scores) for task, scores in predictions.items()}

    def predict_on_batch(self, inputs):
        return self.predictions


def test_sentences_are_right_as_a_whole(intent):
    names = intent.Names(["a", "b"], ["a", "b"], ["O", "B-x"], ["Ask", "Tell"])
    sentences = intent.Sentences(
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


def test_slot_f1_is_that_of_seqeval(intent, snips, monkeypatch):
    monkeypatch.setattr(intent, "LSTM_UNITS", 8)
    sentences = intent.read_sentences(snips / "test")
    names = intent.collect_names(intent.read_sentences(snips / "train"))
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


def test_tags_that_do_not_match_the_words_name_file_and_line(intent, tmp_path):
    write_split(tmp_path / "train", [SENTENCES[0], ("rain in rome", "O O", "GetWeather")])
    with pytest.raises(ValueError, match=r"seq\.out, line 2: 2 tags for the 3 words"):
        intent.read_sentences(tmp_path / "train")


def test_files_of_different_length_are_refused(intent, tmp_path):
    write_split(tmp_path / "train", SENTENCES)
    (tmp_path / "train" / "label").write_text("PlayMusic\n")
    with pytest.raises(ValueError, match=r"`seq\.in` has 4, `seq\.out` 4, `label` 1"):
        intent.read_sentences(tmp_path / "train")


def test_a_line_without_an_intent_is_refused(intent, tmp_path):
    write_split(tmp_path / "train", [(*SENTENCES[0][:2], "Play Music")])
    with pytest.raises(
        ValueError, match=r"label, line 1: one intent, received \['Play', 'Music'\]"
    ):
        intent.read_sentences(tmp_path / "train")


def test_a_missing_file_is_named(intent, tmp_path):
    with pytest.raises(ValueError, match=r"seq\.in is missing"):
        intent.main(["--data", str(tmp_path)])


def test_labels_that_training_does_not_have_are_named(intent):
    with pytest.raises(ValueError, match=r"no tag \['B-moon'\]"):
        intent.numbered("tag", ["O", "B-moon"], ["O", "B-city"])
