"""Rows from TensorFlow Datasets: names, functions, errors, and a model trained on them."""

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

import keras_mtl
from keras_mtl.data import class_names, from_tfds
from keras_mtl.heads import BinaryClassification, Classification


def columns(rows):
    """Returns all rows as arrays."""
    return next(rows.batch(1000).as_numpy_iterator())


def pixels(example):
    return tf.cast(example["image"], "float32") / 200


def test_names_choose_features_also_within_others(stored, expected):
    targets = {"colour": "colour", "shape": "about/shape", "weight": "about/weight"}
    rows = from_tfds("figures", "test", inputs="image", targets=targets, data_dir=stored)
    x, y = columns(rows)
    assert len(rows) == 8
    np.testing.assert_array_equal(x, expected["image"])
    np.testing.assert_array_equal(y["colour"], expected["colour"])
    np.testing.assert_array_equal(y["shape"], expected["about"]["shape"])
    np.testing.assert_array_equal(y["weight"], expected["about"]["weight"])


def test_functions_and_dicts_choose_too(stored, expected):
    rows = from_tfds(
        "figures",
        "test",
        inputs={"pixels": pixels, "weight": "about/weight"},
        targets={
            "even": lambda example: example["colour"] % 2 == 0,
            "detect": {"boxes": "objects/bbox", "labels": "objects/label"},
        },
        data_dir=stored,
    )
    x, y = columns(rows)
    np.testing.assert_allclose(x["pixels"], expected["image"] / 200, rtol=1e-6)
    np.testing.assert_array_equal(y["even"], expected["colour"] % 2 == 0)
    np.testing.assert_array_equal(y["detect"]["boxes"], np.tile([0, 0, 0.5, 1], (8, 1, 1)))
    np.testing.assert_array_equal(y["detect"]["labels"], expected["about"]["shape"][:, None])


def test_a_builder_serves_as_a_name_does(stored):
    builder = tfds.builder("figures", data_dir=stored)
    chosen = {"inputs": "image", "targets": {"colour": "colour"}}
    by_builder = from_tfds(builder, "train[:50%]", download=False, **chosen)
    by_name = from_tfds("figures", "train[:50%]", data_dir=stored, **chosen)
    assert len(by_builder) == 20
    np.testing.assert_array_equal(columns(by_builder)[0], columns(by_name)[0])


def test_a_data_set_that_is_not_stored_is_mocked_without_a_network():
    with tfds.testing.mock_data(num_examples=5):
        targets = {"smiling": "attributes/Smiling", "nose": "landmarks/nose_x"}
        rows = from_tfds("celeb_a", "train", inputs="image", targets=targets)
        x, y = columns(rows)
    assert x.shape == (5, 218, 178, 3)
    assert y["smiling"].dtype == bool
    assert y["nose"].dtype == "int64"


def test_arguments_go_to_tensorflow_datasets(stored):
    decoders = {"image": tfds.decode.SkipDecoding()}
    rows = from_tfds(
        "figures",
        "test",
        inputs="image",
        targets={"colour": "colour"},
        data_dir=stored,
        decoders=decoders,
    )
    assert rows.element_spec[0].dtype == tf.string


def test_class_names_stand_in_the_order_of_the_ids(stored):
    targets = {
        "colour": "colour",
        "shape": "about/shape",
        "objects": "objects/label",
        "weight": "about/weight",
        "even": lambda example: example["colour"] % 2,
    }
    assert class_names("figures", targets, data_dir=stored) == {
        "colour": ["red", "green", "blue"],
        "shape": ["disc", "ring"],
        "objects": ["disc", "ring"],
    }


def test_a_model_learns_from_a_data_set_mixed_with_another(stored):
    names = class_names("figures", {"colour": "colour"}, data_dir=stored)
    read = {"inputs": pixels, "data_dir": stored}
    datasets = {
        "colour": from_tfds("figures", "train", targets={"colour": "colour"}, **read),
        "bright": from_tfds("figures", "train[:50%]", targets={"bright": bright}, **read),
    }
    mixture = keras_mtl.data.mix(datasets, "uniform", batch_size=16, steps_per_epoch=10, seed=0)
    tasks = {"colour": Classification(len(names["colour"])), "bright": BinaryClassification()}
    trunk = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(8, activation="relu")])
    model = keras_mtl.architectures.hard_sharing(keras.Input((4, 4, 1)), trunk, tasks)
    model.compile(keras.optimizers.Adam(0.03))
    logs = model.fit(mixture, epochs=4, verbose=0).history
    assert logs["colour_accuracy"][-1] > 0.95
    assert logs["bright_accuracy"][-1] > 0.95


def bright(example):
    return tf.cast(example["colour"] >= 1, "int32")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"targets": {"colour": "color"}},
            r"`targets\['colour'\]` names the feature 'color', which the data set 'figures/1.0.0' "
            r"does not have. Features: \['about', 'about/shape', .*Did you mean 'colour'\?",
        ),
        ({"inputs": "images"}, r"`inputs` names the feature 'images'.*Did you mean 'image'\?"),
        ({"inputs": {"a": "picture"}}, r"`inputs\['a'\]` names the feature 'picture'"),
        ({"targets": {"t": {"boxes": "bbox"}}}, r"`targets\['t'\]\['boxes'\]` names .*'bbox'"),
        ({"targets": {"my task": "colour"}}, "A task name must be"),
        ({"targets": {}}, "at least one task"),
        ({"split": "trian"}, r"Unknown split 'trian'. Should be one of \['train', 'test'\]"),
    ],
)
def test_values_that_do_not_fit_are_refused(stored, arguments, message):
    usual = {"split": "test", "inputs": "image", "targets": {"colour": "colour"}}
    with pytest.raises(ValueError, match=message):
        from_tfds("figures", data_dir=stored, **{**usual, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": "colour"}, "`targets` must be a dict from task"),
        ({"targets": {"colour": 3}}, r"`targets\['colour'\]` must be a feature's name"),
        ({"split": ["train", "test"]}, "`split` must be one split"),
        ({"name_or_builder": 3}, "`name_or_builder` must be the name of a data set"),
    ],
)
def test_types_that_do_not_fit_are_refused(stored, arguments, message):
    usual = {"name_or_builder": "figures", "inputs": "image", "targets": {"colour": "colour"}}
    with pytest.raises(TypeError, match=message):
        from_tfds(data_dir=stored, **{"split": "test", **usual, **arguments})


def test_names_of_a_missing_feature_are_refused(stored):
    with pytest.raises(ValueError, match=r"Did you mean 'colour'\?"):
        class_names("figures", {"colour": "color"}, data_dir=stored)


def test_without_the_package_the_error_tells_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r'pip install "keras_mtl\[tfds\]"'):
        from_tfds("mnist", "train", inputs="image", targets={"digit": "label"})
