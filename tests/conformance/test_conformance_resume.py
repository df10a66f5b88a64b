"""Training that is saved or killed and goes on equals training without a break."""

import keras
import pytest
from conformance_support import (
    FIT,
    TASKS,
    as_reference,
    assert_same,
    assert_same_history,
    make_model,
    reference_run,
    values,
)

# The same graph on the same numbers: only the order of parallel sums can differ.
ROUNDING = 1e-6
DROPOUT = 0.3


def _assert_goes_on_as_without_a_break(run):
    assert_same(values(run.half), run.half_numbers, tolerance=0.0)
    history = run.half.fit(*run.data, epochs=4, initial_epoch=2, **FIT).history
    assert_same(values(run.half), run.numbers, ROUNDING)
    assert_same_history(history, {name: row[2:] for name, row in run.history.items()}, ROUNDING)


def test_saved_and_loaded_training_equals_training_without_a_break(case):
    _assert_goes_on_as_without_a_break(reference_run(case))


@pytest.mark.slow
def test_saved_and_loaded_training_draws_the_same_dropout(deep_case):
    _assert_goes_on_as_without_a_break(reference_run(deep_case, TASKS, DROPOUT))


class _Killed(Exception):
    pass


class _Killer(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (2, 1):
            raise _Killed


def test_run_killed_in_an_epoch_and_restarted_equals_one_without_a_break(dear_case, tmp_path):
    run = reference_run(dear_case, TASKS, DROPOUT)
    killed = make_model(dear_case, dropout=DROPOUT, **as_reference())
    with pytest.raises(_Killed):
        killed.fit(*run.data, epochs=4, callbacks=[_backup(tmp_path), _Killer()], **FIT)
    restarted = make_model(dear_case, dropout=DROPOUT, seed=99, **as_reference())
    found = restarted.fit(*run.data, epochs=4, callbacks=[_backup(tmp_path)], **FIT).history
    assert_same(values(restarted), run.numbers, ROUNDING)
    assert_same_history(found, {name: row[2:] for name, row in run.history.items()}, ROUNDING)


def _backup(path):
    return keras.callbacks.BackupAndRestore(path / "backup", save_freq="epoch")
