"""Tagging with a linear chain: what follows what is learned, saved, served and balanced."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_mtl
from keras_mtl.core.chains import ChainLoss
from keras_mtl.heads import Classification, Tagging

# Every token looks the same: only its place after the others tells the tag.
TOKENS = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]])
TAGS = np.array([[1, 2, 0, 1, 2, 0]] * 4)
PARTLY = np.where(np.arange(6) == [[2], [1], [0], [5]], -1, TAGS)
KINDS = np.array([0, 1, 0, 1])


def build(optimizer="sgd", **compile_arguments):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((None,), dtype="int32", name="tokens")
    encoder = keras.layers.Embedding(2, 4, mask_zero=True, name="embedding")
    tasks = {"kind": Classification(2), "slots": Tagging(3, crf=True)}
    model = keras_mtl.architectures.hard_sharing(inputs, encoder, tasks)
    model.compile(optimizer, **compile_arguments)
    return model


def labels(tags=PARTLY):
    return {"kind": KINDS, "slots": tags}


@pytest.fixture(scope="module")
def trained():
    model = build(keras.optimizers.Adam(0.2))
    model.fit(TOKENS, labels(), epochs=40, batch_size=4, verbose=0)
    return model


def test_tags_that_only_their_order_tells_are_learned(trained):
    logs = trained.evaluate(TOKENS, labels(TAGS), batch_size=3, return_dict=True, verbose=0)
    assert (logs["slots_accuracy"], logs["slots_f1"]) == (1.0, 1.0)
    predicted = trained.predict(TOKENS, verbose=0)["slots"].argmax(-1)
    np.testing.assert_array_equal(predicted[TOKENS > 0], TAGS[TOKENS > 0])


def test_evaluated_loss_is_that_of_the_labelled_tokens(trained):
    logs = trained.evaluate(TOKENS, labels(), batch_size=3, return_dict=True, verbose=0)
    head = trained.get_layer("slots")
    present = TOKENS > 0
    counted = present & (PARTLY >= 0)
    logits = head.dense(trained.get_layer("embedding")(TOKENS))
    rows = head.chain.negative_log_likelihood(logits, np.maximum(PARTLY, 0), counted, present)
    assert logs["slots_loss"] == pytest.approx(np.sum(rows) / counted.sum(), rel=1e-4)


def test_labels_of_padding_move_no_weight():
    model = build()
    start, ends = model.get_weights(), []
    for tags in (PARTLY, np.where(TOKENS > 0, PARTLY, 1)):
        model.set_weights(start)
        model.train_on_batch(TOKENS, labels(tags))
        ends.append(model.get_weights())
    for left, right, before in zip(*ends, start, strict=True):
        np.testing.assert_array_equal(left, right)
        assert np.any(left != before)


def test_a_saved_model_goes_on_as_it_was(trained, tmp_path):
    trained.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    logs = [m.train_on_batch(TOKENS, labels(), return_dict=True) for m in (trained, again)]
    assert logs[0]["slots_loss"] == pytest.approx(logs[1]["slots_loss"], rel=1e-6)
    for left, right in zip(trained.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-6, atol=1e-7)


def test_served_tags_are_the_best_sequence(trained, tmp_path):
    trained.export(str(tmp_path / "served"), verbose=False)
    serve = tf.saved_model.load(str(tmp_path / "served")).signatures["serve_slots"]
    served = serve(tokens=tf.constant(TOKENS, tf.int32))["slots_tags"].numpy()
    np.testing.assert_array_equal(served[TOKENS > 0], TAGS[TOKENS > 0])


def test_transitions_train_under_weighting_and_balancing():
    balancing = keras_mtl.balancing.PCGrad(scope="features")
    model = build(loss_weighting="uncertainty", gradient_balancing=balancing)
    model.train_on_batch(TOKENS, labels())
    for variable in model.get_layer("slots").chain.weights:
        assert np.any(variable.numpy() != 0.0)


def test_two_replicas_take_the_step_of_one_device(strategy):
    model = build()
    with strategy.scope():
        twin = build()
    for one in (model, twin):
        one.train_on_batch(TOKENS, labels())
    for left, right in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-7)


def test_chain_is_float32_under_mixed_precision():
    head = Tagging(5, crf=True, dtype="mixed_float16")
    predictions = head(np.ones((2, 3, 4), "float16"))
    assert {predictions.dtype, predictions._keras_logits.dtype} == {tf.float32}
    assert {variable.dtype for variable in head.chain.weights} == {"float32"}
    np.testing.assert_allclose(np.sum(predictions, axis=-1), 1.0, rtol=1e-5)


def test_config_round_trip_keeps_the_chain():
    head = Tagging.from_config(Tagging(5, crf=True, name="slots").get_config())
    assert isinstance(head.default_loss(), ChainLoss)
    head.build((None, 4, 8))
    assert head.count_params() == (8 + 1) * 5 + 5 * (5 + 2)


@pytest.mark.parametrize("source", ["arrays", "tf.data"])
def test_a_tag_out_of_range_is_refused_by_row(trained, source):
    data = (TOKENS, labels(np.where(np.arange(4)[:, None] == 2, 3, TAGS)))
    if source == "tf.data":
        data = (tf.data.Dataset.from_tensor_slices(data).batch(4),)
    with pytest.raises(ValueError, match=r"(?s)`y\['slots'\]` .* 0 to 2.* 3\. First in row 2"):
        trained.evaluate(*data, verbose=0)


def test_logits_cannot_hold_the_best_sequence():
    with pytest.raises(ValueError, match='`activation` must be "softmax" with `crf=True`'):
        Tagging(5, activation=None, crf=True)
