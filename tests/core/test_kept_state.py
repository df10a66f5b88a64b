"""What callbacks keep with the model is saved with it, and in time."""

import keras
import numpy as np
import pytest

import keras_mtl
from keras_mtl.core.epoch_start import savers_last

X = np.ones((4, 3), "float32")
Y = {"age": np.ones((4, 1), "float32")}


def make_model():
    inputs = keras.Input((3,), name="x")
    model = keras_mtl.MultiTaskModel(inputs, {"age": keras.layers.Dense(1)(inputs)})
    model.compile("sgd", loss="mse")
    return model


class Counts(keras.callbacks.Callback):
    """Counts the epochs in a variable that is saved with the model."""

    state_in_model = True

    def on_epoch_end(self, epoch, logs=None):
        count = self.model._training_state.keep("epochs, of {task}", (1,), "float64")
        count.assign(count + 1.0)


def counted(model):
    return float(np.asarray(model._training_state.keep("epochs, of {task}", (1,)))[0])


@pytest.mark.parametrize("file", ["model.keras", "model.weights.h5"])
@pytest.mark.parametrize("asked_before", [True, False])
def test_kept_variables_are_saved_and_restored(file, asked_before, tmp_path):
    model = make_model()
    model.fit(X, Y, epochs=3, callbacks=[Counts()], verbose=0)
    loaded = make_model()
    if asked_before:
        assert counted(loaded) == 0.0
    if file == "model.keras":
        model.save(tmp_path / file)
        loaded = keras.saving.load_model(tmp_path / file)
    else:
        model.save_weights(tmp_path / file)
        loaded.load_weights(tmp_path / file)
    assert counted(loaded) == 3.0
    assert [w.shape for w in loaded.weights] == [w.shape for w in make_model().weights]


def test_a_file_without_kept_variables_leaves_them(tmp_path):
    make_model().save_weights(tmp_path / "plain.weights.h5")
    model = make_model()
    model.fit(X, Y, callbacks=[Counts()], verbose=0)
    model.load_weights(tmp_path / "plain.weights.h5")
    assert counted(model) == 1.0


def test_a_kept_variable_of_another_shape_is_replaced():
    state = make_model()._training_state
    state.keep("best", (2,)).assign([1.0, 2.0])
    assert np.asarray(state.keep("best", (2,))).tolist() == [1.0, 2.0]
    assert np.asarray(state.keep("best", (3,))).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("as_list", [True, False], ids=["list", "CallbackList"])
@pytest.mark.parametrize("saver", ["backup", "checkpoint"])
def test_an_epoch_is_saved_after_it_was_counted_in_either_order(saver, as_list, tmp_path):
    path = tmp_path / "saved.weights.h5"
    if saver == "backup":
        path = tmp_path / "backup" / "latest.weights.h5"
        first = keras.callbacks.BackupAndRestore(path.parent, delete_checkpoint=False)
    else:
        first = keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
    model = make_model()
    callbacks = [first, [Counts()]]
    if not as_list:
        callbacks = keras.callbacks.CallbackList(callbacks, add_history=True, model=model)
    model.fit(X, Y, epochs=2, callbacks=callbacks, verbose=0)
    loaded = make_model()
    loaded.load_weights(path)
    assert counted(loaded) == 2.0


def test_only_savers_ahead_of_kept_state_are_moved(tmp_path):
    backup = keras.callbacks.BackupAndRestore(tmp_path / "a")
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "b.keras")
    one, counts, two = keras.callbacks.Callback(), Counts(), keras.callbacks.Callback()
    assert savers_last([backup, one, counts, two, checkpoint]) == [
        *(one, counts, backup, two, checkpoint)
    ]
    assert savers_last([backup, one, checkpoint]) == [backup, one, checkpoint]
    assert savers_last([]) == []


def test_kept_state_of_another_shape_in_a_file_is_left(tmp_path):
    model = make_model()
    model._training_state.keep("best", (3,)).assign([1.0, 2.0, 3.0])
    model.save_weights(tmp_path / "three.weights.h5")
    loaded = make_model()
    best = loaded._training_state.keep("best", (2,))
    loaded.load_weights(tmp_path / "three.weights.h5")
    assert loaded._training_state.keep("best", (2,)) is best
