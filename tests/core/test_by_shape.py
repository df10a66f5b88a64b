import itertools

import keras
import numpy as np
import pytest
from keras.src.trainers import compile_utils

from keras_mtl.core.by_shape import ACCURACY, CROSSENTROPY

SHAPES = [(4,), (4, 1), (4, 3), (4, 5), (4, 5, 1), (4, 5, 3)]
PREDICTIONS = [(4, 1), (4, 3), (4, 5, 1), (4, 5, 3)]


@pytest.mark.parametrize(
    ("labels", "predictions"), list(itertools.product(SHAPES, PREDICTIONS)), ids=str
)
def test_loss_and_metric_are_those_that_keras_picks(labels, predictions):
    arrays = np.zeros(labels), np.zeros(predictions)

    loss = compile_utils.get_loss("crossentropy", *arrays)
    metric = compile_utils.get_metric("accuracy", *arrays)

    assert CROSSENTROPY.pick(labels, predictions) is loss.fn
    assert ACCURACY.pick(labels, predictions) is metric._fn


def test_unknown_sizes_are_no_size_of_one():
    assert CROSSENTROPY.pick((None, None), (None, 3)) is keras.losses.categorical_crossentropy
    assert CROSSENTROPY.pick((None,), (None, None)) is keras.losses.sparse_categorical_crossentropy
