"""Entities: two data sets of which no sentence has both labels, and intervals that hold."""

import argparse

import numpy as np
import pytest
from seqeval.metrics import f1_score

pytestmark = pytest.mark.usefixtures("small_trunk")

POSTS = (
    "Empire\tB-location\nState\tI-location\nis\tO\ntall\tO\n\n"
    "saw\tO\nAnna\tB-person\n\t\n"  # some separators of the real files hold a tab
    "77dsFI\tO\n"
)


@pytest.fixture(scope="module")
def entities(example):
    return example("entities")


@pytest.fixture(scope="module")
def wnut17(entities, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wnut17")
    for file in entities.WNUT17.values():
        (folder / file).write_text(POSTS, encoding="utf-8")
    # Words that are seen once have no id of their own.
    (folder / "wnut17train.conll").write_text(f"{POSTS}\n{POSTS}", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def corpus(entities, wnut17, snips):
    return entities.Corpus(entities.read(argparse.Namespace(data=wnut17, slots=snips)))


@pytest.fixture(scope="module")
def result(quick, wnut17, snips, small_trunk):
    return quick("entities", "--data", wnut17, "--slots", snips, DRAWS=50)


def test_tables_and_figure_are_written(result):
    names = {path.name for path in result["folder"].iterdir()}
    assert names == {"results.json", "table.md", "intervals.md", "entities.png"}
    assert (result["folder"] / "intervals.md").read_text() == result["intervals"] + "\n"
    assert list(result["rows"]) == ["single task", "multi-task"]
    assert len(result["intervals"].splitlines()) == 4


def test_posts_are_read_to_the_last_line(entities, wnut17):
    part = entities.read_columns(wnut17 / "emerging.dev.conll")
    assert part.words == [["Empire", "State", "is", "tall"], ["saw", "Anna"], ["77dsFI"]]
    assert part.tags == [["B-location", "I-location", "O", "O"], ["O", "B-person"], ["O"]]


def test_a_line_without_a_tag_is_named(entities, tmp_path):
    path = tmp_path / "posts.conll"
    path.write_text("Empire\tB-location\nState\n")
    with pytest.raises(ValueError, match=r"posts\.conll, line 2: a word and its tag, .*'State'"):
        entities.read_columns(path)


def test_a_missing_file_is_named(entities, snips, tmp_path):
    with pytest.raises(ValueError, match=r"wnut17train\.conll is missing"):
        entities.main(["--data", str(tmp_path), "--slots", str(snips)])


def test_a_sentence_has_the_tags_of_its_own_data_set_only(corpus):
    for inputs, labels in (*corpus.train(4, seed=0), *corpus.batches("test")):
        present = inputs["words"].numpy() != 0
        known = {task: labels[task].numpy() >= 0 for task in corpus.tasks}
        assert not (known["entities"] & known["slots"]).any()
        np.testing.assert_array_equal(known["entities"] | known["slots"], present)


def test_a_batch_is_of_one_data_set_and_a_task_has_as_many_alone(corpus, entities):
    alone = entities.Corpus({"slots": corpus.parts["slots"]})
    assert len(corpus.train(4, seed=0)) == 2 * len(alone.train(4, seed=0))
    for _, labels in corpus.train(4, seed=0):
        assert sum((labels[task].numpy() >= 0).any() for task in corpus.tasks) == 1


def test_a_model_of_one_task_knows_the_words_of_its_own_data_set(corpus, entities):
    alone = entities.Corpus({"slots": corpus.parts["slots"]})
    assert set(alone.vocabulary.letters) < set(corpus.vocabulary.letters)
    assert set(alone.vocabulary.words) <= set(corpus.vocabulary.words)


class FixedModel:
    """Answers with the same tags whatever it reads."""

    def __init__(self, **tags):
        self.predictions = {task: np.eye(8)[rows] for task, rows in tags.items()}

    def predict_on_batch(self, inputs):
        return self.predictions


def test_entities_are_counted_sentence_by_sentence_and_give_the_f1_of_seqeval(corpus, entities):
    names = corpus.tags["entities"]
    place, inside, person, outside = map(names.index, ("B-location", "I-location", "B-person", "O"))
    # The first is cut short, the second right with one more, the padding counts nowhere.
    tags = [
        [place, outside, outside, outside],
        [place, person, inside, person],
        [outside, place, place, place],
    ]
    counts = entities.measure(corpus, FixedModel(entities=tags), "entities")
    assert counts.tolist() == [[0, 1, 1], [1, 2, 1], [0, 0, 0]]
    true = corpus.parts["entities"]["test"].tags
    found = [
        [names[tag] for tag in row[: len(truth)]] for row, truth in zip(tags, true, strict=True)
    ]
    assert entities.f1(counts.sum(axis=0)) == pytest.approx(100 * f1_score(true, found))


def test_intervals_hold_the_truth_as_often_as_they_say(entities):
    # Each sentence has one entity; one model finds 60 % of them, the other 10 points more.
    rng = np.random.default_rng(0)
    held, widths = np.zeros(3), np.zeros(3)
    for _ in range(60):
        draws = rng.random(300)
        single, shared = (
            np.stack([draws < part, np.ones(300), np.ones(300)], axis=-1)[None]
            for part in (0.6, 0.7)
        )
        for place, (low, high) in enumerate(entities.bootstrap(single, shared)):
            held[place] += low <= (60, 70, 10)[place] <= high
            widths[place] += (high - low) / 60
    # 57 expected of 60; fewer than 51 with a probability of 0.0007 each.
    assert (held >= 51).all()
    # The difference is that of a share of 10 %, since both models are measured on the same draws.
    shares = np.array([0.6, 0.7, 0.1])
    np.testing.assert_allclose(widths, 392 * np.sqrt(shares * (1 - shares) / 300), rtol=0.1)


def test_intervals_are_of_the_mean_over_seeds(entities):
    rng = np.random.default_rng(0)
    found = (rng.random((2, 400)) < [[0.2], [0.8]]).astype(float)  # two seeds
    counts = np.stack([found, np.ones((2, 400)), np.ones((2, 400))], axis=-1)
    low, high = entities.bootstrap(counts, counts)[0]
    assert low < 100 * found.mean() < high
    # The variance of a mean of two independent ones, not that of either.
    expected = 392 * np.sqrt((0.2 * 0.8 + 0.8 * 0.2) / 4 / 400)
    assert high - low == pytest.approx(expected, rel=0.15)


def test_an_interval_of_equal_models_is_nothing_wide(entities):
    counts = np.random.default_rng(0).integers(0, 3, (2, 40, 3))
    np.testing.assert_array_equal(entities.bootstrap(counts, counts)[2], [0, 0])
