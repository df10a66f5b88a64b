"""From a search over weightings to a SavedModel that serves one task without this package."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import keras_mtl
from keras_mtl.heads import BinaryClassification, Classification

ROWS = 16
random = np.random.default_rng(0)
X = {
    "image": random.normal(size=(ROWS, 4)).astype("float32"),
    "age": random.random((ROWS, 1)).astype("float32"),
}
Y = {"digit": np.arange(ROWS) % 3, "parity": np.arange(ROWS) % 2}

SERVE = """
import sys
import numpy as np
import tensorflow as tf

folder, inputs, answers = sys.argv[1:]
loaded = tf.saved_model.load(folder)
given = {name: tf.constant(value) for name, value in np.load(inputs).items()}
found = {}
for signature, serve in loaded.signatures.items():
    for name, value in serve(**given).items():
        found[f"{signature}/{name}"] = value.numpy()
np.savez(answers, **found)
assert "keras_mtl" not in sys.modules
"""


def build(loss_weighting="fixed"):
    inputs = {"image": keras.Input((4,), name="image"), "age": keras.Input((1,), name="age")}
    stem = keras.layers.Concatenate()([inputs["image"], inputs["age"]])
    tasks = {
        "digit": Classification(3),
        "parity": keras_mtl.Task(BinaryClassification(), auxiliary=True),
    }
    trunk = [keras.layers.Dense(6, activation="relu"), keras.layers.Dropout(0.5)]
    model = keras_mtl.architectures.hard_sharing(stem, trunk, tasks)
    model.compile("adam", loss_weighting=loss_weighting)
    return model


def served(folder, tmp_path):
    np.savez(tmp_path / "inputs.npz", **X)
    arguments = [folder, tmp_path / "inputs.npz", tmp_path / "answers.npz"]
    finished = subprocess.run(
        [sys.executable, "-c", SERVE, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(tmp_path),
    )
    assert finished.returncode == 0, finished.stderr
    return dict(np.load(tmp_path / "answers.npz"))


def test_a_search_then_the_best_model_served_without_this_package(tmp_path):
    import keras_tuner as tuner_module

    def hypermodel(hp):
        return build(hp.Choice("loss_weighting", ["fixed", "uncertainty"]))

    tuner = tuner_module.RandomSearch(
        hypermodel,
        objective=tuner_module.Objective("val_digit_accuracy", "max"),
        max_trials=2,
        seed=0,
        directory=tmp_path,
        project_name="search",
    )
    tuner.search(X, Y, validation_data=(X, Y), epochs=1, verbose=0)
    values = {trial.hyperparameters.get("loss_weighting") for trial in tuner.oracle.trials.values()}
    assert values == {"fixed", "uncertainty"}
    (best,) = tuner.get_best_models(1)
    best.export(tmp_path / "served", verbose=False)
    answers = served(tmp_path / "served", tmp_path)
    # The auxiliary task is not served: neither among the others nor alone.
    assert {"serving_default/digit", "serve_digit/digit"} <= set(answers)
    assert {name.rpartition("/")[2] for name in answers} == {"digit"}
    expected = best.predict(X, verbose=0)["digit"]
    for answer in answers.values():
        np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-6)


def test_an_auxiliary_task_is_served_when_it_is_named(tmp_path):
    model = build()
    model.export(tmp_path / "served", tasks=["digit", "parity"], verbose=False)
    signatures = tf.saved_model.load(tmp_path / "served").signatures
    given = {name: tf.constant(value) for name, value in X.items()}
    together = signatures["serving_default"](**given)
    expected = model.predict(X, verbose=0)
    assert set(together) == {"digit", "parity"}
    for name, prediction in expected.items():
        alone = signatures[f"serve_{name}"](**given)
        assert list(alone) == [name]
        np.testing.assert_allclose(alone[name], prediction, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(together[name], prediction, rtol=1e-5, atol=1e-6)


def test_a_saved_single_task_model_needs_no_task_names(tmp_path):
    model = build()
    model.task_model("digit").save(tmp_path / "digit.keras")
    alone = keras.models.load_model(tmp_path / "digit.keras")
    expected = model.predict(X, verbose=0)["digit"]
    np.testing.assert_allclose(alone.predict(X, verbose=0), expected, rtol=1e-6)
