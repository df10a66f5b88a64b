"""A small data set that TensorFlow Datasets has stored."""

import contextlib
import io

import numpy as np
import pytest
import tensorflow as tf

COLOURS = ["red", "green", "blue"]
SHAPES = ["disc", "ring"]
ROWS = {"train": 40, "test": 8}


def arrays(split):
    """Returns images whose mean tells the colour, and the labels."""
    count = ROWS[split]
    colours, shapes = np.arange(count) % 3, np.arange(count) % 2
    images = np.broadcast_to((100 * colours)[:, None, None, None], (count, 4, 4, 1))
    boxes = np.tile(np.array([[0.0, 0.0, 0.5, 1.0]], "float32"), (count, 1, 1))
    return {
        "image": images.astype("uint8"),
        "colour": colours,
        "about": {"shape": shapes, "weight": np.linspace(0, 1, count, dtype="float32")},
        "objects": {"bbox": boxes, "label": shapes[:, None]},
    }


@pytest.fixture(scope="session")
def expected():
    """The rows of the split 'test'."""
    return arrays("test")


@pytest.fixture(scope="session")
def stored(tmp_path_factory):
    """The folder where the data set 'figures' is stored."""
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("tfds")
    shape = tfds.features.ClassLabel(names=SHAPES)
    features = {
        "image": tfds.features.Image(shape=(4, 4, 1)),
        "colour": tfds.features.ClassLabel(names=COLOURS),
        "about": {"shape": shape, "weight": np.float32},
        "objects": tfds.features.Sequence({"bbox": tfds.features.BBoxFeature(), "label": shape}),
    }
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        tfds.dataset_builders.store_as_tfds_dataset(
            name="figures",
            version="1.0.0",
            data_dir=folder,
            split_datasets={
                split: tf.data.Dataset.from_tensor_slices(arrays(split)) for split in ROWS
            },
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )
    return folder
