"""Entities are counted as by hand and as by seqeval, exact over batches and without padding."""

import warnings

import numpy as np
import pytest
import seqeval.metrics
import tensorflow as tf

from keras_mtl.core import entities
from keras_mtl.metrics import EntityF1, EntityPrecision, EntityRecall

PLACES = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
FIVE_PREFIXES = ["O", *(f"{prefix}-{kind}" for kind in ("X", "Y") for prefix in "BIES")]


def ids(text, tags=PLACES):
    return np.array([[tags.index(tag) for tag in text.split()]])


def f1(expected, found, weight=None, tags=PLACES):
    metric = EntityF1(tags)
    metric.update_state(expected, np.eye(len(tags))[found], weight)
    return float(metric.result())


def counted(expected, found, tags):
    weights = np.ones(np.shape(expected), "float32")
    parts = entities.count(np.array(expected), np.array(found), weights, entities.reading(tags))
    return [float(part) for part in parts]


def by_seqeval(expected, found, score="f1"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where there is no entity
        return getattr(seqeval.metrics, f"{score}_score")(expected, found)


# What is found, against "B-LOC I-LOC O B-PER": right, expected, found, by hand.
BY_HAND = {
    "B-LOC I-LOC O B-PER": (2, 2, 2),
    "O O O O": (0, 2, 0),
    "B-LOC O O B-PER": (1, 2, 2),  # too short
    "B-LOC I-LOC I-LOC B-PER": (1, 2, 2),  # too long
    "B-PER I-PER O B-PER": (1, 2, 2),  # wrong type
    "I-LOC I-LOC O I-PER": (2, 2, 2),  # I- begins an entity where none goes on
    "B-LOC I-PER O B-PER": (1, 2, 3),  # another type is another entity
    "B-LOC B-LOC O B-PER": (1, 2, 3),  # two entities side by side
}


@pytest.mark.parametrize("found", BY_HAND)
def test_entities_are_counted_as_by_hand(found):
    expected = ids("B-LOC I-LOC O B-PER")
    assert tuple(counted(expected, ids(found), PLACES)) == BY_HAND[found]


@pytest.mark.parametrize("tags", [PLACES, FIVE_PREFIXES], ids=["BIO", "BIOES"])
@pytest.mark.parametrize("metric", [EntityF1, EntityPrecision, EntityRecall])
def test_scores_are_those_of_seqeval_for_any_tags(tags, metric):
    random = np.random.default_rng(0)
    expected = random.integers(0, len(tags), size=(300, 9))
    # Close to the truth, or two long entities are never the same.
    found = np.where(random.random(expected.shape) < 0.2, random.permutation(expected), expected)
    named = [[[tags[tag] for tag in row] for row in rows] for rows in (expected, found)]
    score = metric(tags)
    score.update_state(expected, np.eye(len(tags))[found])
    value = float(score.result())
    assert value == pytest.approx(by_seqeval(*named, score.name), abs=1e-6)
    assert 0.3 < value < 0.9


def test_tags_of_bilou_are_those_of_bioes_by_other_letters():
    bioes, bilou = ["O", "B", "I", "E", "S"], ["O", "B", "I", "L", "U"]
    for left, right in zip(entities.reading(bioes), entities.reading(bilou), strict=True):
        np.testing.assert_array_equal(left, right)


def test_an_entity_does_not_go_on_in_the_next_row():
    expected = np.array([[0, 1], [2, 0]])
    assert counted(expected, expected, PLACES) == [2, 2, 2]
    assert counted(expected, np.array([[0, 1], [0, 0]]), PLACES) == [1, 2, 1]


def test_f1_is_the_harmonic_mean_of_precision_and_recall():
    expected, found = ids("B-LOC I-LOC O B-PER O"), ids("B-LOC O O B-PER B-LOC")
    scores = [kind(PLACES) for kind in (EntityPrecision, EntityRecall, EntityF1)]
    for score in scores:
        score.update_state(expected, np.eye(5)[found])
    precision, recall, f1 = (float(score.result()) for score in scores)
    assert (precision, recall) == pytest.approx((1 / 3, 1 / 2), abs=1e-6)
    assert f1 == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-6)


def test_f1_is_exact_over_batches_and_no_mean_of_theirs():
    metric = EntityF1(PLACES)
    right, missed = ids("B-LOC O B-PER"), ids("B-LOC O O")
    metric.update_state(right, np.eye(5)[right])  # 2 of 2: an F1 of 1
    metric.update_state(missed, np.eye(5)[np.zeros_like(missed)])  # 0 of 1: an F1 of 0
    assert float(metric.result()) == pytest.approx(2 * 2 / (3 + 2), abs=1e-6)
    metric.reset_state()
    assert float(metric.result()) == 0.0


def test_pieces_without_a_label_are_left_out_of_both_sequences():
    # "New", "York", "##er": the last piece is no token of its own.
    expected = ids("B-LOC I-LOC O I-LOC")
    found = ids("B-LOC I-LOC B-PER I-LOC")
    assert f1(expected, found, np.array([[1.0, 1.0, 0.0, 1.0]])) == 1.0
    assert f1(expected, found) < 1.0


def test_an_entity_has_the_weight_of_its_row():
    expected = np.concatenate([ids("B-LOC O"), ids("B-LOC O")])
    found = np.concatenate([ids("B-LOC O"), ids("O O")])
    assert f1(expected, found, np.array([3.0, 1.0])) == pytest.approx(2 * 3 / (4 + 3), abs=1e-6)


def test_counting_is_the_same_when_compiled_by_xla():
    random = np.random.default_rng(1)
    expected, found = random.integers(0, 5, size=(2, 4, 6))
    weights = random.integers(0, 2, size=(4, 6)).astype("float32")
    count = tf.function(
        lambda *parts: entities.count(*parts, entities.reading(PLACES)), jit_compile=True
    )
    plain = entities.count(expected, found, weights, entities.reading(PLACES))
    np.testing.assert_array_equal(count(expected, found, weights), plain)


@pytest.mark.parametrize(
    ("tags", "error", "message"),
    [
        ([0, 1], TypeError, "`tags` must be a list of strings"),
        (None, TypeError, "`tags` must be a list of strings, received None of type NoneType"),
        (["O", "X-L"], ValueError, r"that mark no entities use the metric 'accuracy'\.$"),
        (["O", "X-LOC"], ValueError, "`tags` must be 'O' or begin with one of .* 'X-LOC'"),
        (["O", "B-LOC", "B-LOC"], ValueError, r"these occur twice: \['B-LOC'\]"),
    ],
)
def test_tags_that_cannot_be_are_refused(tags, error, message):
    with pytest.raises(error, match=message):
        EntityRecall(tags)


@pytest.mark.parametrize("shape", [(2, 4, 3), (2, 4, 6), (2, 5)])
def test_scores_of_other_tags_are_refused(shape):
    metric = EntityF1(["O", "B-LOC", "I-LOC", "B-PER", "I-PER"])
    with pytest.raises(ValueError, match=r"has 5 tags .*\(batch, steps, 5\), received \(2, "):
        metric.update_state(np.zeros(shape[:2], int), np.zeros(shape))
