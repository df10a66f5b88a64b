"""A tag a token: the loss of a classification a token, whose metric is the F1 of entities."""

import keras
import numpy as np
import pytest
import seqeval.metrics
import tensorflow as tf

import keras_mtl
from keras_mtl.core import entities
from keras_mtl.heads import Classification, Tagging

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
    assert logs["slots_f1"] == pytest.approx(seqeval.metrics.f1_score(expected, found), abs=1e-6)
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


def test_rows_of_a_tag_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"`y\['slots'\]` must hold class ids from 0 to 4.*5"):
        build(Tagging(5)).fit(TOKENS, labels(np.where(TAGS == 4, 5, TAGS)), verbose=0)


@pytest.mark.parametrize(("kind", "filler"), [("int32", "-100"), ("float32", r"float\('nan'\)")])
def test_ragged_tags_are_to_be_padded(kind, filler):
    ragged = tf.ragged.constant([[1], [0, 1], [2], [3]], dtype=kind)
    message = rf"`y\['slots'\]` must be dense, received RaggedTensor. .*`.to_tensor\({filler}\)`"
    model = build(Tagging(5, ignore_class=-100))
    with pytest.raises(ValueError, match=message):
        model.fit(TOKENS, labels(ragged), verbose=0)
    data = tf.data.Dataset.from_tensor_slices((TOKENS, labels(ragged))).batch(2)
    with pytest.raises(ValueError, match=message):
        model.fit(data, verbose=0)


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
        ((5, "BIO", None, "softmax", -1, "no"), r"`crf` must be one of \[False, True\], .*'no'"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Tagging(*arguments)


def test_tags_must_be_a_list_of_strings():
    with pytest.raises(TypeError, match="`tags` must be a list of strings"):
        Tagging(3, "BIO", [0, 1, 2])
