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
    return folder


@pytest.fixture(scope="module")
def corpus(entities, wnut17, snips):
    options = argparse.Namespace(data=wnut17, slots=snips)
    return entities.Corpus(entities.read(options))


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
    part = entities.read_columns(wnut17 / "wnut17train.conll")
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
    tasks = ("entities", "slots")
    for inputs, labels in (*corpus.train(tasks, seed=0), *corpus.batches(tasks, "test")):
        present = inputs["words"].numpy() != 0
        known = {task: labels[task].numpy() >= 0 for task in tasks}
        assert not (known["entities"] & known["slots"]).any()
        np.testing.assert_array_equal(known["entities"] | known["slots"], present)


def test_a_batch_is_of_one_data_set_and_a_task_sees_as_many_alone(corpus):
    tasks = ["entities", "slots"]
    alone, both = corpus.train(tasks[:1], seed=0), corpus.train(tasks, seed=0)
    assert len(both) == 2 * len(alone)
    for _, labels in both:
        assert sum((labels[task].numpy() >= 0).any() for task in tasks) == 1


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
    counts = entities.measure(corpus, FixedModel(entities=tags), "entities", "test")
    assert counts.tolist() == [[0, 1, 1], [1, 2, 1], [0, 0, 0]]
    true = corpus.parts["entities"]["test"].tags
    found = [
        [names[tag] for tag in row[: len(truth)]] for row, truth in zip(tags, true, strict=True)
    ]
    assert entities.f1(counts.sum(axis=0)) == pytest.approx(100 * f1_score(true, found))


def test_intervals_hold_the_truth_as_often_as_they_say(entities):
    # Each sentence has one entity; one model finds 60 % of them, the other 10 points more.
    rng = np.random.default_rng(0)
    held = np.zeros(3)
    for _ in range(60):
        draws = rng.random(300)
        single, shared = (
            np.stack([draws < part, np.ones(300), np.ones(300)], axis=-1)[None]
            for part in (0.6, 0.7)
        )
        for place, (low, high) in enumerate(entities.bootstrap(single, shared)):
            held[place] += low <= (60, 70, 10)[place] <= high
    # 57 expected of 60; fewer than 51 with a probability of 0.005 each.
    assert (held >= 51).all()


def test_an_interval_of_equal_models_is_nothing_wide(entities):
    counts = np.random.default_rng(0).integers(0, 3, (2, 40, 3))
    np.testing.assert_array_equal(entities.bootstrap(counts, counts)[2], [0, 0])
