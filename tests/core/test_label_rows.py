"""Which row a refused label or weight stands in."""

import numpy as np
import pytest
import tensorflow as tf

from keras_mtl.core import label_checks
from keras_mtl.core.losses import TaskLoss, resolve
from keras_mtl.core.plan import TaskPlan

PLAN = TaskPlan("job", TaskLoss("job", resolve("job", "sparse_categorical_crossentropy")), -1)
LABELS = np.array([[0, 1], [-1, 2], [1, 7], [9, 0]])


def test_the_first_bad_row_of_an_array_is_named():
    with pytest.raises(ValueError, match=r"Received 7\. First in row 2\.$"):
        label_checks.check(PLAN, LABELS, (None, 2, 3))


def test_the_first_bad_row_of_a_batch_of_a_data_set_is_named():
    def checked(labels):
        label_checks.check(PLAN, labels, (None, 2, 3))
        return labels

    batches = tf.data.Dataset.from_tensor_slices(LABELS).batch(2).map(checked)
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        list(batches)
    message = label_checks.readable(raised.value)
    assert message.endswith("Received 7. First in row 0 of its batch.")


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int32", "int64", "uint32", "float16"]
)
def test_class_ids_of_every_dtype_are_checked(dtype):
    good, bad = np.array([0, 2, 1], dtype), np.array([0, 2, 3], dtype)
    label_checks.check(PLAN, good, (None, 3))
    with pytest.raises(ValueError, match=r"from 0 to 2.* Received 3(\.0)?\. First in row 2\.$"):
        label_checks.check(PLAN, bad, (None, 3))


def test_labels_that_cannot_reach_the_number_of_classes_are_not_wrapped_around():
    # As uint8, 300 classes would be 44.
    label_checks.check(PLAN, np.array([255, 44], "uint8"), (None, 300))
    label_checks.check(PLAN, np.array([127, 44], "int8"), (None, 300))
    with pytest.raises(ValueError, match=r"Received -2\. First in row 1"):
        label_checks.check(PLAN, np.array([127, -2], "int8"), (None, 300))


@pytest.mark.parametrize(("weights", "row"), [(np.array([1.0, 2.0, -1.0]), 2), (-1.0, 0)])
def test_the_row_of_a_bad_sample_weight_is_named(weights, row):
    with pytest.raises(ValueError, match=rf"Received -1\.0\. First in row {row}\.$"):
        label_checks.check_weights("sample_weight", weights)


@pytest.mark.parametrize("weights", [np.ones(3), 1.0, np.zeros((0, 2))])
def test_good_weights_pass_whatever_their_rank(weights):
    label_checks.check_weights("sample_weight", weights)
