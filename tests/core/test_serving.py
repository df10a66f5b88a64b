import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_mtl

X = {
    "image": np.arange(12.0, dtype="float32").reshape(2, 6),
    "age": np.array([[30.0], [40.0]], "float32"),
}
IMAGE, AGE = tf.TensorSpec((2, 6), "uint8"), tf.TensorSpec((2, 1))


def build():
    inputs = {name: keras.Input(value.shape[1:], name=name) for name, value in X.items()}
    x = keras.layers.Concatenate()([inputs["image"], inputs["age"]])
    outputs = {task: keras.layers.Dense(1, name=task)(x) for task in ("price", "sold")}
    return keras_mtl.MultiTaskModel(inputs, outputs)


FORMS = {
    "by name": {"image": IMAGE, "age": AGE},
    "wrapped as in Keras": [{"age": AGE, "image": IMAGE}],
    "in order": [AGE, IMAGE],
    "wrapped in order": [[AGE, IMAGE]],
    "Keras' own": {
        "image": keras.layers.InputSpec("uint8", (2, 6)),
        "age": keras.KerasTensor((2, 1)),
    },
    "dtype left out": {"image": IMAGE, "age": keras.layers.InputSpec(shape=(2, 1))},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_given_signature_sets_shapes_and_dtypes_of_every_endpoint(form, tmp_path):
    model = build()
    model.export(tmp_path / "served", verbose=False, input_signature=FORMS[form])

    signatures = tf.saved_model.load(tmp_path / "served").signatures

    expected = model.predict(X, verbose=0)
    given = {"image": tf.constant(X["image"], tf.uint8), "age": tf.constant(X["age"])}
    for name in ("serving_default", "serve_price", "serve_sold"):
        endpoint = signatures[name]
        specs = endpoint.structured_input_signature[1]
        assert {key: (spec.shape, spec.dtype) for key, spec in specs.items()} == {
            "image": (IMAGE.shape, tf.uint8),
            "age": (AGE.shape, tf.float32),
        }
        tasks = ["price", "sold"] if name == "serving_default" else [name.removeprefix("serve_")]
        for task, answer in endpoint(**given).items():
            np.testing.assert_allclose(answer, expected[task], rtol=1e-5)
        assert set(endpoint.structured_outputs) == set(tasks)


def test_one_input_takes_one_spec(tmp_path):
    inputs = keras.Input((3,), name="x")
    model = keras_mtl.MultiTaskModel(inputs, {"age": keras.layers.Dense(1)(inputs)})
    model.export(tmp_path / "served", verbose=False, input_signature=tf.TensorSpec((5, 3)))
    (spec,) = tf.saved_model.load(tmp_path / "served").signatures["serving_default"].inputs[:1]
    assert spec.shape == (5, 3)


WRONG = {
    "unknown name": ({"image": IMAGE, "agee": AGE}, ValueError, r"\['image', 'agee'\]"),
    "missing name": ({"image": IMAGE}, ValueError, r"\['image'\]"),
    "too few": ([IMAGE], ValueError, "one entry an input.*TensorSpec"),
    "other shape": (
        {"image": tf.TensorSpec((2, 7)), "age": AGE},
        ValueError,
        r"`input_signature\['image'\]` must fit the input's shape \(None, 6\), received \(2, 7\)",
    ),
    "no spec": ({"image": (2, 6), "age": AGE}, TypeError, r"\['image'\]` must have a shape and"),
    "a number": (3, TypeError, "`input_signature` must be a spec, a list or a dict"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_signature_that_does_not_fit_is_refused_and_nothing_is_written(name, tmp_path):
    signature, error, message = WRONG[name]
    with pytest.raises(error, match=message):
        build().export(tmp_path / "served", verbose=False, input_signature=signature)
    assert not (tmp_path / "served").exists()


@pytest.mark.parametrize("tasks", [("detect", "detect_boxes"), ("detect_boxes", "detect")])
def test_outputs_that_would_be_served_by_one_name_are_refused(tasks, tmp_path):
    class Boxes(keras_mtl.heads.Regression):
        def decode(self, predictions):
            return {"boxes": predictions, "scores": predictions[:, 0]}

    inputs = keras.Input((3,), name="x")
    heads = {"detect": Boxes(), "detect_boxes": keras_mtl.heads.Regression(2)}
    heads = {task: heads[task] for task in tasks}
    model = keras_mtl.architectures.hard_sharing(inputs, keras.layers.Dense(4), heads)
    message = f"tasks '{tasks[0]}' and '{tasks[1]}' both .* served as 'detect_boxes'"
    with pytest.raises(ValueError, match=message):
        model.export(tmp_path / "served", verbose=False)
    assert not (tmp_path / "served").exists()
    model.export(tmp_path / "served", verbose=False, tasks=["detect"])
    served = tf.saved_model.load(tmp_path / "served").signatures["serving_default"]
    assert set(served.structured_outputs) == {"detect_boxes", "detect_scores"}


@pytest.mark.parametrize("given", [None, [{"image": IMAGE, "age": AGE}]])
def test_other_formats_of_keras_get_the_signature_that_an_uncalled_model_lacks(given, monkeypatch):
    received = {}

    def export_onnx(model, filepath, verbose=None, input_signature=None):
        received.update(input_signature[0])

    monkeypatch.setattr("keras.src.export.export_onnx", export_onnx)
    build().export("z.onnx", format="onnx", verbose=False, input_signature=given)

    assert list(received) == ["image", "age"]
    assert received["age"].shape == ((None, 1) if given is None else AGE.shape)
    assert received["image"].dtype == ("float32" if given is None else IMAGE.dtype)
