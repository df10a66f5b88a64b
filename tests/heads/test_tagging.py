"""A tag a token: the loss of a classification a token, the F1 of whole entities."""

import warnings

import keras
import numpy as np
import pytest
import seqeval.metrics
import tensorflow as tf

import keras_mtl
from keras_mtl.core import entities
from keras_mtl.heads import Classification, Tagging
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


TOKENS = np.array([[5, 7, 2, 0, 0], [1, 2, 3, 4, 6], [3, 3, 0, 0, 0], [8, 9, 1, 1, 0]])
TAGS = np.array([[1, 2, 0, 4, 4], [0, 1, -1, 2, 3], [-1, -1, 0, 0, 0], [3, 4, 0, 1, 0]])
PRESENT = (TOKENS > 0) & (TAGS >= 0)


def build(head):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((None,), dtype="int32", name="tokens")
    encoder = [
        keras.layers.Embedding(10, 8, mask_zero=True),
        keras.layers.Dense(8, activation="relu"),
    ]
    tasks = {"intent": Classification(2), "slots": head}
    model = keras_mtl.architectures.hard_sharing(inputs, encoder, tasks)
    model.compile(keras.optimizers.Adam(0.1))
    return model


def labels(tags=TAGS):
    return {"intent": np.array([0, 1, 0, 1]), "slots": tags}


@pytest.fixture(scope="module")
def trained():
    keras.utils.set_random_seed(0)
    model = build(Tagging(5))
    model.fit(TOKENS, labels(), epochs=20, batch_size=4, verbose=0)
    return model


def test_evaluation_is_that_of_the_tokens_with_a_label(trained):
    logs = trained.evaluate(TOKENS, labels(), batch_size=3, return_dict=True, verbose=0)
    p = trained.predict(TOKENS, verbose=0)["slots"]
    chosen = np.take_along_axis(p, np.maximum(TAGS, 0)[..., None], axis=-1)[..., 0]
    rows = [np.flatnonzero(row) for row in PRESENT]
    names = entities.default_tags(5, "BIO")
    expected, found = (
        [[names[tag] for tag in tags[row]] for tags, row in zip(source, rows, strict=True)]
        for source in (TAGS, p.argmax(-1))
    )
    assert logs["slots_f1"] == pytest.approx(by_seqeval(expected, found), abs=1e-6)
    assert logs["slots_f1"] > 0.3
    assert logs["slots_loss"] == pytest.approx(-np.log(chosen)[PRESENT].mean(), rel=1e-5)
    accuracy = (p.argmax(-1) == TAGS)[PRESENT].mean()
    assert logs["slots_accuracy"] == pytest.approx(accuracy, abs=1e-6)


def test_labels_of_padding_move_no_weight():
    model = build(Tagging(5))
    model.compile("sgd")
    start, ends = model.get_weights(), []
    for tags in (TAGS, np.where(TOKENS > 0, TAGS, 3)):
        model.set_weights(start)
        model.train_on_batch(TOKENS, labels(tags))
        ends.append(model.get_weights())
    for left, right, before in zip(*ends, start, strict=True):
        np.testing.assert_array_equal(left, right)
        assert np.any(left != before)


def test_a_saved_model_goes_on_as_it_was(trained, tmp_path):
    trained.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    logs = [m.evaluate(TOKENS, labels(), return_dict=True, verbose=0) for m in (trained, again)]
    assert logs[0] == logs[1]
    assert "slots_f1" in logs[0]


def test_served_tags_are_the_most_probable(trained, tmp_path):
    trained.export(str(tmp_path / "served"), verbose=False)
    serve = tf.saved_model.load(str(tmp_path / "served")).signatures["serve_slots"]
    answers = serve(tokens=tf.constant(TOKENS, tf.int32))
    assert set(answers) == {"slots_tags", "slots_probabilities"}
    predicted = trained.predict(TOKENS, verbose=0)["slots"]
    np.testing.assert_allclose(answers["slots_probabilities"], predicted, atol=1e-6)
    np.testing.assert_array_equal(answers["slots_tags"], predicted.argmax(-1))


def test_two_replicas_count_as_one_device(strategy):
    model = build(Tagging(5))
    with strategy.scope():
        twin = build(Tagging(5))
    one = model.evaluate(TOKENS, labels(), batch_size=4, return_dict=True, verbose=0)
    two = twin.evaluate(TOKENS, labels(), batch_size=4, return_dict=True, verbose=0)
    assert two == pytest.approx(one, abs=1e-6)


def test_predictions_are_float32_under_mixed_precision():
    head = Tagging(5, dtype="mixed_float16")
    predictions = head(np.ones((2, 3, 4), "float16"))
    assert (predictions.dtype, head.dense.compute_dtype) == (tf.float32, "float16")


def test_parts_of_speech_have_no_entities():
    assert Tagging(4, scheme=None).default_metrics() == ["accuracy"]
    assert Tagging(2, scheme=None, tags=["NOUN", "VERB"]).tags == ["NOUN", "VERB"]


@pytest.mark.parametrize("scheme", ["BIO", None])
def test_config_round_trip_keeps_every_argument(scheme):
    tags = ["O", "B-A", "I-A"]
    head = Tagging(3, scheme, tags, None, -100, kernel_initializer="zeros", name="slots")
    again = Tagging.from_config(head.get_config())
    assert again.get_config() == head.get_config()
    assert (again.scheme, again.tags, again.activation, again.ignore_class) == (
        scheme,
        tags,
        None,
        -100,
    )


@pytest.mark.parametrize("kind", [EntityF1, EntityPrecision, EntityRecall])
def test_metric_config_round_trip(kind):
    metric = kind(PLACES, name="entities")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert type(again) is kind
    assert (again.tags, again.name, again._direction) == (PLACES, "entities", "up")


def test_precision_and_recall_are_metrics_of_compile_beside_f1():
    head = Tagging(5, tags=PLACES)
    model = build(head)
    scores = [EntityPrecision(PLACES), EntityRecall(PLACES), EntityF1(PLACES)]
    model.compile("sgd", metrics={"slots": scores})
    logs = model.evaluate(TOKENS, labels(TAGS), return_dict=True, verbose=0)
    precision, recall = logs["slots_precision"], logs["slots_recall"]
    total = precision + recall
    assert logs["slots_f1"] == pytest.approx(2 * precision * recall / total if total else 0.0)


def test_rows_of_a_tag_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"`y\['slots'\]` must hold class ids from 0 to 4.*5"):
        build(Tagging(5)).fit(TOKENS, labels(np.where(TAGS == 4, 5, TAGS)), verbose=0)


@pytest.mark.parametrize("steps", [4, 1])
@pytest.mark.parametrize("crf", [False, True])
def test_tags_that_do_not_match_the_tokens_are_refused(crf, steps):
    model = build(Tagging(5, crf=crf))
    message = rf"`y\['slots'\]` must have a label for each .* \('batch', 5\), received .* {steps}\)"
    with pytest.raises(ValueError, match=message):
        model.evaluate(TOKENS, labels(TAGS[:, :steps]), verbose=0)


def test_pooled_features_are_refused():
    with pytest.raises(ValueError, match=r"needs features of shape \(batch, steps, channels\)"):
        Tagging(3)(np.ones((2, 4)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1,), "`num_tags` must be an integer >= 2, received 1"),
        ((4,), "`num_tags` of scheme 'BIO' without names .* B-, I- for each type, received 4"),
        ((3, "BIOSE"), "`scheme` must be one of .* Did you mean 'BIOES'"),
        ((3, "BIO", ["O", "B-X"]), "`tags` must have `num_tags` = 3 names, received 2"),
        ((2, "BIO", ["O", "S-X"]), r"begin with one of \['B', 'I'\].*received 'S-X'"),
        ((3, "BIO", ["O", "B-X", "B-X"]), r"these occur twice: \['B-X'\]"),
        ((5, "BIO", None, "sigmoid"), "`activation` must be one of"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Tagging(*arguments)


def test_tags_must_be_a_list_of_strings():
    with pytest.raises(TypeError, match="`tags` must be a list of strings"):
        Tagging(3, "BIO", [0, 1, 2])
