"""Training that is saved or killed and goes on equals training without a break."""

import functools

import keras
import pytest
from conformance_support import assert_same, assert_same_history, make_data, make_model, values

# The same graph on the same numbers: only the order of parallel sums can differ.
ROUNDING = 1e-6
FIT = {"batch_size": 8, "shuffle": False, "verbose": 0}


@functools.cache
def _whole_run(case):
    """Returns history and numbers of training without a break."""
    model = make_model(case, dropout=0.3, penalty=0.01)
    history = model.fit(*make_data(20), epochs=4, **FIT).history
    return history, values(model)


def test_saved_and_loaded_training_equals_training_without_a_break(case, tmp_path):
    history, numbers = _whole_run(case)
    x, y = make_data(20)
    half = make_model(case, dropout=0.3, penalty=0.01)
    first = half.fit(x, y, epochs=2, **FIT).history
    half.save(tmp_path / "half.keras")
    loaded = keras.saving.load_model(tmp_path / "half.keras")
    assert_same(values(loaded), values(half), tolerance=0.0)
    second = loaded.fit(x, y, epochs=4, initial_epoch=2, **FIT).history
    assert_same(values(loaded), numbers, ROUNDING)
    assert_same_history({name: first[name] + second[name] for name in first}, history, ROUNDING)


class _Killed(Exception):
    pass


class _Killer(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (2, 1):
            raise _Killed


def test_run_killed_in_an_epoch_and_restarted_equals_one_without_a_break(deep_case, tmp_path):
    history, numbers = _whole_run(deep_case)
    x, y = make_data(20)
    killed = make_model(deep_case, dropout=0.3, penalty=0.01)
    with pytest.raises(_Killed):
        killed.fit(x, y, epochs=4, callbacks=[_backup(tmp_path), _Killer()], **FIT)
    restarted = make_model(deep_case, dropout=0.3, penalty=0.01, seed=99)
    found = restarted.fit(x, y, epochs=4, callbacks=[_backup(tmp_path)], **FIT).history
    assert_same(values(restarted), numbers, ROUNDING)
    assert_same_history(found, {name: row[2:] for name, row in history.items()}, ROUNDING)


def _backup(path):
    return keras.callbacks.BackupAndRestore(path / "backup", save_freq="epoch")
