"""`LossWeightSchedule`: values by epoch and step, resumed runs, errors, no retrace."""

import keras
import numpy as np
import pytest

import keras_mtl
from keras_mtl.callbacks import LossWeightSchedule

FIT = {"batch_size": 4, "shuffle": False, "verbose": 0}
# The same graph on the same numbers: only the order of parallel sums can differ.
ROUNDING = 1e-6
STEPS = 3
HALVES = keras.optimizers.schedules.ExponentialDecay(1.0, decay_steps=STEPS, decay_rate=0.5)
SCHEDULES = {"age": lambda epoch: 1.0 / (1 + epoch), "sex": HALVES}
X = np.random.default_rng(0).normal(size=(4 * STEPS, 3)).astype("float32")
Y = {"age": X[:, :1], "sex": X[:, 1:2]}


def make_model(seed=0, **given):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((3,), name="x")
    hidden = keras.layers.Dropout(0.2)(keras.layers.Dense(4, "tanh")(inputs))
    outputs = {task: keras.layers.Dense(1, name=task)(hidden) for task in ("age", "sex")}
    outputs["idle"] = keras.layers.Activation("relu", name="idle")(hidden)
    model = keras_mtl.MultiTaskModel(inputs, outputs)
    given.setdefault("optimizer", keras.optimizers.Adam(0.01))
    model.compile(loss={"age": "mse", "sex": "mse", "idle": None}, **given)
    return model


class Killed(Exception):
    pass


class Recorder(keras.callbacks.Callback):
    """Keeps the weights of each step and counts the traces; may kill the run."""

    def __init__(self, killed_at=None):
        super().__init__()
        self.weights, self.epoch, self.killed_at = [], None, killed_at

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self.weights.append(dict(self.model.task_weights))
        if (self.epoch, batch) == self.killed_at:
            raise Killed


def fit(model, *callbacks, schedules=SCHEDULES, **given):
    recorder = Recorder(given.pop("killed_at", None))
    schedule = LossWeightSchedule(schedules)
    history = model.fit(X, Y, callbacks=[*callbacks, schedule, recorder], **{**FIT, **given})
    return recorder.weights, history.history


def test_functions_get_the_epoch_and_keras_schedules_the_step():
    weights, _ = fit(make_model(), epochs=3)
    assert [row["age"] for row in weights] == pytest.approx([1.0] * 3 + [0.5] * 3 + [1 / 3] * 3)
    assert [row["sex"] for row in weights] == pytest.approx([0.5 ** (i / 3) for i in range(9)])


def test_the_schedule_multiplies_what_a_weighting_chooses():
    model = make_model(loss_weighting="dynamic_weight_average")
    weights, _ = fit(model, schedules={"age": lambda epoch: 0.25}, epochs=1)
    assert weights == [{"age": pytest.approx(0.25), "sex": pytest.approx(1.0)}] * STEPS


def test_changing_weights_every_step_is_traced_once():
    model = make_model()
    traces = []
    step = model.train_step
    model.train_step = lambda data: traces.append(1) or step(data)
    fit(model, epochs=3)
    assert len(traces) == 1


def test_a_step_schedule_goes_on_from_the_optimizers_iterations():
    model = make_model()
    fit(model, epochs=2)
    weights, _ = fit(model, epochs=3, initial_epoch=2)
    assert weights[0] == {"age": pytest.approx(1 / 3), "sex": pytest.approx(0.25)}


def numbers(model):
    return [v.numpy() for v in [*model.weights, *model.optimizer.variables]]


def assert_resumed(model, whole, history, whole_history):
    for mine, other in zip(numbers(model), numbers(whole), strict=True):
        np.testing.assert_allclose(mine, other, rtol=ROUNDING, atol=ROUNDING)
    for name, row in whole_history.items():
        np.testing.assert_allclose(history[name], row[2:], rtol=ROUNDING, err_msg=name)


@pytest.mark.parametrize("first", [True, False], ids=["backup first", "backup last"])
def test_run_killed_in_an_epoch_and_restarted_equals_one_without_a_break(first, tmp_path):
    whole = make_model()
    _, whole_history = fit(whole, epochs=4)

    def callbacks(**given):
        parts = [LossWeightSchedule(SCHEDULES), keras.callbacks.BackupAndRestore(tmp_path / "b")]
        return [*(parts[::-1] if first else parts), Recorder(**given)]

    with pytest.raises(Killed):
        make_model().fit(X, Y, epochs=4, callbacks=callbacks(killed_at=(2, 1)), **FIT)
    model = make_model(seed=9)
    history = model.fit(X, Y, epochs=4, callbacks=callbacks(), **FIT).history
    assert_resumed(model, whole, history, whole_history)


def test_saved_model_resumed_at_initial_epoch_equals_one_without_a_break(tmp_path):
    whole = make_model()
    _, whole_history = fit(whole, epochs=4)
    half = make_model()
    fit(half, epochs=2)
    half.save(tmp_path / "half.keras")
    loaded = keras.saving.load_model(tmp_path / "half.keras")
    _, history = fit(loaded, epochs=4, initial_epoch=2)
    assert_resumed(loaded, whole, history, whole_history)


def test_two_replicas_follow_the_schedule(strategy):
    with strategy.scope():
        model = make_model(optimizer="sgd")
    weights, _ = fit(model, epochs=2)
    assert [row["age"] for row in weights] == pytest.approx([1.0] * 3 + [0.5] * 3)
    assert [row["sex"] for row in weights] == pytest.approx([0.5 ** (i / 3) for i in range(6)])


def test_verbose_prints_every_epoch_as_keras_schedulers_do(capsys):
    callback = LossWeightSchedule({"age": lambda epoch: 0.5**epoch}, verbose=1)
    make_model().fit(X, Y, epochs=2, callbacks=[callback], **FIT)
    assert capsys.readouterr().out.split("\n")[1:4:2] == [
        "Epoch 1: LossWeightSchedule setting loss weight of 'age' to 1.0.",
        "Epoch 2: LossWeightSchedule setting loss weight of 'age' to 0.5.",
    ]


@pytest.mark.parametrize(
    ("schedules", "error", "message"),
    [
        ({"aeg": lambda epoch: 1.0}, ValueError, "Rename the key 'aeg' to 'age'"),
        ({"idle": lambda epoch: 1.0}, ValueError, "Leave 'idle' out: the task has no loss"),
        ({"age": lambda epoch: 1.0 - epoch * 2}, ValueError, r"\['age'\]\(epoch=1\).* -1.0 of"),
        ({"age": lambda epoch: float("nan")}, ValueError, r"\['age'\]\(epoch=0\).* received nan"),
        ({"age": lambda epoch: None}, TypeError, r"\['age'\]\(epoch=0\).*received None"),
        ({"age": 0.5}, TypeError, r"function of the epoch.*compile\(loss_weights=\{'age'"),
        ({"sex": type(HALVES)}, TypeError, r"the class ExponentialDecay itself\. Make"),
        (lambda epoch: 1.0, TypeError, "must be a dict from task to schedule"),
    ],
)
def test_wrong_schedules_are_refused_by_task_and_epoch(schedules, error, message):
    with pytest.raises(error, match=message):
        fit(make_model(), schedules=schedules, epochs=2)


def test_a_bad_value_of_a_step_schedule_names_step_and_epoch():
    falling = keras.optimizers.schedules.PolynomialDecay(1.0, 4, end_learning_rate=-1.0)
    with pytest.raises(ValueError, match=r"\['sex'\]\(step=3, in epoch 1\).* -0.5"):
        fit(make_model(), schedules={"sex": falling}, epochs=2)


def test_unknown_tasks_are_refused_before_the_first_step():
    model = make_model()
    with pytest.raises(ValueError, match="schedules"):
        fit(model, schedules={"aeg": lambda epoch: 1.0})
    assert int(model.optimizer.iterations) == 0


def test_a_model_without_tasks_is_refused():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", loss="mse")
    with pytest.raises(TypeError, match="LossWeightSchedule acts on the tasks of a MultiTaskModel"):
        model.fit(X, Y["age"], callbacks=[LossWeightSchedule(SCHEDULES)], verbose=0)
