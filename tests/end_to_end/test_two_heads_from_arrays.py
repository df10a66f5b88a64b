"""The first script: two heads, numpy arrays, and every verb of a Keras model."""

import keras
import numpy as np

import keras_mtl

random = np.random.default_rng(0)
IMAGES = random.random((32, 8, 8, 1)).astype("float32")
DIGITS = (IMAGES.mean(axis=(1, 2, 3)) * 1000).astype("int32") % 10
LABELS = {"digit": DIGITS, "parity": DIGITS % 2}


def build():
    trunk = keras.Sequential(
        [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Flatten()], name="trunk"
    )
    tasks = {
        "digit": keras_mtl.heads.Classification(10),
        "parity": keras_mtl.Task(
            keras_mtl.heads.BinaryClassification(), loss_weight=0.5, auxiliary=True
        ),
    }
    inputs = keras.Input((8, 8, 1), name="image")
    model = keras_mtl.architectures.hard_sharing(inputs, trunk, tasks)
    model.compile(optimizer="adam")
    return model


def test_fit_evaluate_and_predict(capsys):
    model = build()
    history = model.fit(IMAGES, LABELS, epochs=15, validation_split=0.25, verbose=2).history
    assert history["loss"][-1] < history["loss"][0]
    tasks = ["digit_loss", "parity_loss", "digit_accuracy", "parity_accuracy"]
    measured = {"loss", *tasks}
    weights = {"digit_weight", "parity_weight"}
    assert set(history) == measured | weights | {f"val_{name}" for name in measured}
    assert history["parity_weight"] == [0.5] * 15
    logs = model.evaluate(IMAGES, LABELS, return_dict=True, verbose=0)
    assert set(logs) == measured
    predictions = model.predict(IMAGES, verbose=0)
    assert predictions["digit"].shape == (32, 10)
    np.testing.assert_allclose(predictions["digit"].sum(axis=1), 1.0, rtol=1e-5)
    accuracy = (predictions["digit"].argmax(axis=1) == DIGITS).mean()
    np.testing.assert_allclose(logs["digit_accuracy"], accuracy, rtol=1e-6)
    printed = capsys.readouterr().out
    assert "digit_accuracy" in printed
    assert "val_parity_loss" in printed


def test_a_saved_model_predicts_evaluates_and_trains_on_like_the_one_saved(tmp_path):
    model = build()
    model.fit(IMAGES, LABELS, verbose=0, shuffle=False)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for one in (model, loaded):
        one.fit(IMAGES, LABELS, verbose=0, shuffle=False)
    assert isinstance(loaded, keras_mtl.MultiTaskModel)
    assert dict(loaded.loss_weights) == {"digit": 1.0, "parity": 0.5}
    assert loaded.tasks["parity"].auxiliary
    left = model.evaluate(IMAGES, LABELS, return_dict=True, verbose=0)
    right = loaded.evaluate(IMAGES, LABELS, return_dict=True, verbose=0)
    assert left == right
    for name, expected in model.predict(IMAGES, verbose=0).items():
        np.testing.assert_array_equal(loaded.predict(IMAGES, verbose=0)[name], expected)


def test_a_data_set_trains_as_arrays_do():
    import tensorflow as tf

    model = build()
    twin = model.clone()
    twin.compile(optimizer="adam")
    twin.set_weights(model.get_weights())
    arrays = model.fit(IMAGES, LABELS, batch_size=8, shuffle=False, verbose=0).history
    pairs = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(8)
    assert arrays == twin.fit(pairs, verbose=0).history
