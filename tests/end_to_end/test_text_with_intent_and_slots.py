"""A text encoder with an intent a sentence and a slot a word; padding reaches neither."""

import keras
import numpy as np
import pytest

import keras_mtl
from keras_mtl.heads import Classification

ROWS, STEPS = 10, 6
random = np.random.default_rng(0)
LENGTHS = random.integers(1, STEPS + 1, size=ROWS)
PADDING = np.arange(STEPS) < LENGTHS[:, None]
TOKENS = np.where(PADDING, random.integers(1, 20, size=(ROWS, STEPS)), 0)
INTENTS = np.arange(ROWS) % 3
SLOTS = random.integers(0, 4, size=(ROWS, STEPS))  # slots of padding are no marker: any class


def build(mask_zero=True, **task):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((None,), dtype="int32", name="tokens")
    encoder = [
        keras.layers.Embedding(20, 5, mask_zero=mask_zero, name="embedding"),
        keras.layers.Bidirectional(keras.layers.LSTM(3, return_sequences=True), name="encoder"),
    ]
    tasks = {
        "intent": Classification(3),
        "slots": keras_mtl.Task(Classification(4, pooling=None), **task),
    }
    model = keras_mtl.architectures.hard_sharing(inputs, encoder, tasks)
    model.compile(keras.optimizers.SGD(0.5))
    return model


def by_hand(model, slots, mask):
    p = model.predict(TOKENS, verbose=0)
    chosen = np.take_along_axis(p["slots"], np.maximum(slots, 0)[..., None], axis=-1)[..., 0]
    return {
        "intent_loss": -np.log(p["intent"][np.arange(ROWS), INTENTS]).mean(),
        "slots_loss": -np.log(chosen)[mask].mean(),
        "intent_accuracy": (p["intent"].argmax(axis=-1) == INTENTS).mean(),
        "slots_accuracy": (p["slots"].argmax(axis=-1) == slots)[mask].mean(),
    }


def check(model, slots, mask):
    y = {"intent": INTENTS, "slots": slots}
    logs = model.evaluate(TOKENS, y, batch_size=4, return_dict=True, verbose=0)
    for name, expected in by_hand(model, slots, mask).items():
        np.testing.assert_allclose(logs[name], expected, rtol=1e-5, err_msg=name)


def test_padding_reaches_neither_loss_nor_metric():
    check(build(), SLOTS, PADDING)


def test_a_word_without_a_label_reaches_neither_too():
    slots = SLOTS.copy()
    slots[[0, 3, 4], [0, 0, 0]] = -1
    check(build(), slots, PADDING & (slots >= 0))


def test_padding_moves_no_weight():
    model, twin = build(), build()
    longer = np.pad(TOKENS, [(0, 0), (0, 3)])
    junk = np.pad(SLOTS, [(0, 0), (0, 3)], constant_values=1)
    model.fit(TOKENS, {"intent": INTENTS, "slots": SLOTS}, shuffle=False, verbose=0)
    twin.fit(longer, {"intent": INTENTS, "slots": junk}, shuffle=False, verbose=0)
    for left, right in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("unit", ["word", "sentence"])
def test_weights_a_word_and_a_sentence(unit):
    model = build()
    words = random.uniform(0.0, 2.0, size=(ROWS, STEPS)).astype("float32")
    weight = words if unit == "word" else words[:, 0]
    y, p = {"intent": INTENTS, "slots": SLOTS}, model.predict(TOKENS, verbose=0)["slots"]
    logs = model.evaluate(TOKENS, y, sample_weight={"slots": weight}, return_dict=True, verbose=0)
    losses = -np.log(np.take_along_axis(p, SLOTS[..., None], axis=-1)[..., 0])
    weighted = losses * weight.reshape(ROWS, -1)
    np.testing.assert_allclose(logs["slots_loss"], weighted[PADDING].mean(), rtol=1e-5)


@pytest.mark.parametrize("saved", [False, True])
def test_a_mask_named_by_a_task_of_an_existing_model(saved, tmp_path):
    tokens = keras.Input((STEPS,), dtype="int32", name="tokens")
    mask = keras.Input((STEPS,), dtype="bool", name="is_word")
    x = keras.layers.Embedding(20, 5)(tokens)
    outputs = {
        "intent": keras.layers.Dense(3, "softmax")(keras.layers.GlobalAveragePooling1D()(x)),
        "slots": keras.layers.Dense(4, "softmax")(x),
    }
    inputs = {"tokens": tokens, "is_word": mask}
    tasks = {"slots": keras_mtl.Task(mask="is_word")}
    model = keras_mtl.MultiTaskModel(inputs, outputs, tasks=tasks)
    model.compile("sgd", loss="sparse_categorical_crossentropy", metrics="accuracy")
    if saved:
        model.save(tmp_path / "model.keras")
        model = keras.models.load_model(tmp_path / "model.keras")
    x, y = {"tokens": TOKENS, "is_word": PADDING}, {"intent": INTENTS, "slots": SLOTS}
    logs = model.evaluate(x, y, batch_size=4, return_dict=True, verbose=0)
    p = model.predict(x, verbose=0)["slots"]
    losses = -np.log(np.take_along_axis(p, SLOTS[..., None], axis=-1)[..., 0])
    np.testing.assert_allclose(logs["slots_loss"], losses[PADDING].mean(), rtol=1e-5)
    accuracy = (p.argmax(axis=-1) == SLOTS)[PADDING].mean()
    np.testing.assert_allclose(logs["slots_accuracy"], accuracy, rtol=1e-6)
