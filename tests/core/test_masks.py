import keras
import numpy as np
import pytest

from keras_mtl import MultiTaskModel, Task
from keras_mtl.core.masks import WithMask
from keras_mtl.heads import Regression

STEPS = np.arange(6.0, dtype="float32").reshape(1, 3, 2)


def masked_model():
    """Features and a mask to the features that carry it and to their mean over the steps."""
    features, mask = keras.Input((None, 2), name="features"), keras.Input((None,), name="mask")
    carried = WithMask(name="with_mask")(features, mask=mask)
    return keras.Model([features, mask], [carried, keras.layers.GlobalAveragePooling1D()(carried)])


def test_features_pass_unchanged_and_carry_a_boolean_mask():
    carried, _ = masked_model()([STEPS, np.array([[1.0, 0.0, 1.0]])])
    np.testing.assert_array_equal(carried, STEPS)
    np.testing.assert_array_equal(carried._keras_mask, [[True, False, True]])


def test_layers_after_it_see_the_mask():
    _, mean = masked_model()([STEPS, np.array([[1.0, 0.0, 1.0]])])
    np.testing.assert_allclose(mean, [[2.0, 3.0]])


def test_a_mask_carried_before_is_replaced():
    tokens = np.array([[1, 2, 0]])
    embedded = keras.layers.Embedding(4, 2, mask_zero=True)(tokens)
    carried = WithMask()(embedded, mask=np.array([[False, True, True]]))
    np.testing.assert_array_equal(carried._keras_mask, [[False, True, True]])
    np.testing.assert_array_equal(embedded._keras_mask, [[True, True, False]])


def test_entries_of_a_dict_without_steps_stay_without_mask():
    carried = WithMask()({"steps": STEPS, "row": np.ones((1, 2))}, mask=np.array([[True] * 3]))
    assert hasattr(carried["steps"], "_keras_mask")
    assert not hasattr(carried["row"], "_keras_mask")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_saved_model_masks_as_before(tmp_path):
    masked_model().save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    _, mean = again([STEPS, np.array([[1.0, 0.0, 1.0]])])
    np.testing.assert_allclose(mean, [[2.0, 3.0]])


def test_features_without_steps_are_refused():
    with pytest.raises(ValueError, match=r"needs features of shape \(batch, steps, channels\)"):
        WithMask()(np.ones((1, 2)), mask=np.array([[True, False]]))


def test_a_mask_of_other_steps_is_refused():
    with pytest.raises(ValueError, match=r"mask has 4 steps, the features \[3\]"):
        WithMask()(STEPS, mask=np.ones((1, 4), bool))


def model_with_a_mask(output, mask_shape=(3,)):
    features, mask = keras.Input((3, 2), name="x"), keras.Input(mask_shape, name="mask")
    return MultiTaskModel([features, mask], {"a": output(features)}, tasks={"a": Task(mask="mask")})


@pytest.mark.parametrize("mask_shape", [(3,), (None,), (3, 1)])
def test_a_mask_of_steps_that_are_pooled_is_refused(mask_shape):
    message = r"`mask='mask'` of task 'a' must have an entry .* \(None, 1\)\. Leave it out"
    with pytest.raises(ValueError, match=message):
        model_with_a_mask(Regression(), mask_shape)


OUTPUTS = {
    "a channel": Regression(pooling=None),
    "no channel": lambda x: keras.ops.sum(x, axis=-1),
}


@pytest.mark.parametrize("output", OUTPUTS.values(), ids=OUTPUTS)
def test_steps_that_are_masked_are_not_measured(output):
    model = model_with_a_mask(output)
    model.compile("sgd", loss="mse")
    y, present = np.arange(3.0, dtype="float32").reshape(1, 3), np.array([[1.0, 0.0, 1.0]])
    loss = model.evaluate([STEPS, present], {"a": y}, return_dict=True, verbose=0)["a_loss"]
    errors = np.reshape(model.predict([STEPS, present], verbose=0)["a"], (1, 3)) - y
    assert loss == pytest.approx(np.square(errors)[present > 0].mean(), rel=1e-5)
