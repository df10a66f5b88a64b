"""`TaskEarlyStopping`: when it stops, what that does to the model, resumed runs, errors."""

import keras
import numpy as np
import pytest

import keras_mtl
from keras_mtl.callbacks import TaskEarlyStopping

FIT = {"batch_size": 4, "shuffle": False, "verbose": 0}
# The same graph on the same numbers: only the order of parallel sums can differ.
ROUNDING = 1e-6
random = np.random.default_rng(0)
X = random.normal(size=(12, 3)).astype("float32")
Y = {"age": X[:, :1], "job": (X[:, 0] > 0).astype("int32"), "aux": X[:, 2:]}


def make_model(seed=0, auxiliary=("aux",), **given):
    """A tower with batch norm before `age`; `idle` has no loss."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((3,), name="x")
    hidden = keras.layers.Dense(4, "tanh", name="trunk")(inputs)
    tower = keras.layers.BatchNormalization(name="norm")(hidden)
    outputs = {
        "age": keras.layers.Dense(1, name="age")(tower),
        "job": keras_mtl.heads.Classification(2, name="job")(hidden),
        "aux": keras.layers.Dense(1, name="aux")(hidden),
        "idle": keras.layers.Activation("relu", name="idle")(hidden),
    }
    tasks = {task: keras_mtl.Task(auxiliary=True) for task in auxiliary}
    model = keras_mtl.MultiTaskModel(inputs, outputs, tasks=tasks)
    given.setdefault("optimizer", keras.optimizers.Adam(0.05))
    model.compile(loss={"age": "mse", "aux": "mse", "idle": None}, **given)
    return model


@pytest.fixture(scope="module")
def shared_model():
    return make_model()


@pytest.fixture
def driven_model(shared_model):
    """A model that is not trained, with no task stopped."""
    for task in shared_model.loss_weights:
        shared_model.resume_task(task)
    return shared_model


def drive(model, stopping, logs, first=0):
    """Runs the callback by hand on rows of logs; returns the epoch in which training ended."""
    model.stop_training = False
    stopping.set_model(model)
    stopping.on_train_begin()
    for epoch, row in enumerate(logs, first):
        stopping.on_epoch_begin(epoch)
        stopping.on_epoch_end(epoch, dict(row))
        if model.stop_training:
            return epoch
    return None


def rows(**series):
    return [dict(zip(series, values, strict=True)) for values in zip(*series.values(), strict=True)]


def falling(count):
    return [10.0 - epoch for epoch in range(count)]


def test_each_task_stops_on_its_own_and_training_with_the_last_main_one(driven_model):
    stopping = TaskEarlyStopping(patience=2, head="freeze")
    age, job = [3.0, 1.0, 2.0, 2.0, 1.5, 9.0], [5.0, 4.0, 3.0, 3.5, 3.5, 9.0]
    logs = rows(val_age_loss=age, val_job_loss=job, val_aux_loss=falling(6))
    assert drive(driven_model, stopping, logs) == 4
    assert stopping.stopped_epoch == {"age": 3, "job": 4}
    assert stopping.end_value == {"age": 2.0, "job": 3.5}
    assert stopping.best == {"age": 1.0, "job": 3.0, "aux": 6.0}
    assert stopping.best_epoch == {"age": 1, "job": 2, "aux": 4}


def test_a_stopped_auxiliary_task_does_not_end_training(driven_model):
    stopping = TaskEarlyStopping(head="freeze")
    logs = rows(val_age_loss=falling(4), val_job_loss=falling(4), val_aux_loss=[1.0] * 4)
    assert drive(driven_model, stopping, logs) is None
    assert stopping.stopped_epoch == {"aux": 1}


def test_without_main_tasks_training_ends_with_the_last_auxiliary_one():
    model = make_model(auxiliary=("age", "job", "aux"))
    logs = rows(val_age_loss=[1.0] * 3, val_job_loss=[1.0] * 3, val_aux_loss=[2.0, 1.0, 1.0])
    assert drive(model, TaskEarlyStopping(head="freeze"), logs) == 2


ARGUMENTS = [
    {"patience": 0},
    {"patience": 2, "min_delta": 0.3},
    {"patience": 3, "start_from_epoch": 2},
    {"patience": 2, "mode": "max", "min_delta": -0.3},
]


@pytest.mark.parametrize("arguments", ARGUMENTS)
@pytest.mark.parametrize("seed", range(5))
def test_one_task_stops_when_keras_early_stopping_does(driven_model, arguments, seed):
    values = np.random.default_rng(seed).normal(size=12).round(2).tolist()
    keras_stopping = keras.callbacks.EarlyStopping("val_age_loss", **arguments)
    expected = drive(driven_model, keras_stopping, rows(val_age_loss=values))
    stopping = TaskEarlyStopping(tasks=["age"], head="freeze", **arguments)
    drive(driven_model, stopping, rows(val_age_loss=values[: None if expected is None else 12]))
    assert stopping.stopped_epoch.get("age") == expected
    assert stopping.best["age"] == pytest.approx(float(keras_stopping.best))


@pytest.mark.parametrize(
    ("monitor", "values"), [("{task}_loss", [1.0, 2.0]), ("val_{task}_accuracy", [2.0, 1.0])]
)
def test_auto_mode_knows_what_is_better(driven_model, monitor, values):
    for direction, stopped in ((1, {"job": 1}), (-1, {})):
        stopping = TaskEarlyStopping(monitor, tasks=["job"], head="freeze")
        name = monitor.replace("{task}", "job")
        drive(driven_model, stopping, [{name: value} for value in values[::direction]])
        assert stopping.stopped_epoch == stopped


def test_tasks_may_be_stopped_by_the_value_of_another(driven_model):
    stopping = TaskEarlyStopping("val_job_loss", tasks=["aux"], head="freeze")
    drive(driven_model, stopping, rows(val_job_loss=[1.0, 2.0]))
    assert stopping.stopped_epoch == {"aux": 1}


def test_nan_is_never_the_best(driven_model):
    stopping = TaskEarlyStopping(tasks=["age"], patience=3, head="freeze")
    nan = float("nan")
    drive(driven_model, stopping, rows(val_age_loss=[nan, 2.0, nan, nan, nan]))
    assert stopping.best == {"age": 2.0}
    assert stopping.stopped_epoch == {"age": 4}


def test_an_epoch_without_labels_of_a_task_does_not_count_for_it():
    model = make_model()
    stopping = TaskEarlyStopping("{task}_loss", patience=2, tasks=["age"], mode="min")
    absent = {"age_loss": 0.0, "age_weight": 0.0}
    there = [{"age_loss": loss, "age_weight": 1.0} for loss in (3.0, 2.0, 1.0)]
    assert drive(model, stopping, [absent, *there, absent, absent, absent]) is None
    assert (stopping.best, stopping.best_epoch) == ({"age": 1.0}, {"age": 3})


def test_validation_without_labels_of_a_task_does_not_count_for_it():
    inputs = keras.Input((1,))
    outputs = {name: keras.layers.Dense(1, name=name)(inputs) for name in ("age", "job")}
    model = keras_mtl.MultiTaskModel(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.0), "mse", baselines={"age_loss": 1.0, "job_loss": 1.0})
    x = np.ones((2, 1), "float32")
    stopping = TaskEarlyStopping(patience=1)
    validation = (x, {"age": np.full_like(x, np.nan), "job": np.asarray(model(x)["job"]) + 2})
    y = {"age": x, "job": x}
    history = model.fit(
        x, y, epochs=4, validation_data=validation, callbacks=[stopping], verbose=0
    ).history
    assert stopping.stopped_epoch == {"job": 1}
    assert "age" not in stopping.best
    assert history["val_delta_m"] == pytest.approx([-300.0] * 4)  # 4 for 1, of one task


def test_a_task_resumed_by_somebody_gets_its_patience_back(driven_model):
    stopping = TaskEarlyStopping(tasks=["age"], patience=2, head="freeze")
    drive(driven_model, stopping, rows(val_age_loss=[1.0, 1.0, 1.0]))
    assert stopping.stopped_epoch == {"age": 2}
    driven_model.resume_task("age")
    stopping.on_epoch_end(3, {"val_age_loss": 1.0})
    assert stopping.stopped_epoch == {}
    stopping.on_epoch_end(4, {"val_age_loss": 1.0})
    assert stopping.stopped_epoch == {"age": 4}


def test_a_task_stopped_by_somebody_else_is_left_alone(driven_model):
    logs = rows(val_age_loss=[1.0] * 3, val_job_loss=falling(3), val_aux_loss=falling(3))
    driven_model.stop_task("age")
    stopping = TaskEarlyStopping()
    drive(driven_model, stopping, logs)
    assert stopping.stopped_epoch == {}
    assert driven_model._training_state.stopped.numpy().tolist() == [1.0, 0.0, 0.0]


def test_a_head_may_be_detached_first_and_frozen_later():
    model = make_model()
    detaching = TaskEarlyStopping(tasks=["age"], patience=1, head="train")
    freezing = TaskEarlyStopping(tasks=["age"], patience=3, head="freeze")
    states = []
    for epoch in range(5):
        for part in (detaching, freezing):
            if epoch == 0:
                part.set_model(model)
                part.on_train_begin()
            part.on_epoch_begin(epoch)
            part.on_epoch_end(epoch, {"val_age_loss": 1.0})
        states.append(model._training_state.stopped.numpy().tolist()[0])
    assert states == [0.0, 2.0, 2.0, 1.0, 1.0]
    assert (detaching.stopped_epoch, freezing.stopped_epoch) == ({"age": 1}, {"age": 3})


class Killed(Exception):
    pass


class Script(keras.callbacks.Callback):
    """Puts values into the logs and keeps the weights of each epoch; may kill the run."""

    def __init__(self, killed_at=None, **series):
        super().__init__()
        self.series, self.killed_at, self.weights, self.traces = series, killed_at, [], []

    def set_model(self, model):
        super().set_model(model)
        step = model.train_step
        model.train_step = lambda data: self.traces.append(1) or step(data)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.killed_at:
            raise Killed

    def on_epoch_end(self, epoch, logs=None):
        logs.update({f"val_{task}_loss": row[epoch] for task, row in self.series.items()})
        self.weights.append({v.path: v.numpy() for v in self.model.weights})

    def moved(self, epoch):
        before, after = self.weights[epoch - 1], self.weights[epoch]
        paths = {path for path in after if not np.array_equal(before[path], after[path])}
        return {path.split("/")[0] for path in paths}


# `age` is stopped after epoch 2, `job` after epoch 5; `aux` goes on.
SERIES = {"age": [1.0, 2.0, 2.0] + [0.0] * 5, "job": [3.0, 2.0, 1.0, 0.5, 2.0, 2.0, 2.0, 2.0]}
SERIES["aux"] = falling(8)


def fit(model, stopping, *callbacks, epochs=8, **given):
    script = Script(given.pop("killed_at", None), **SERIES)
    history = model.fit(
        X, Y, epochs=epochs, callbacks=[script, stopping, *callbacks], **FIT, **given
    )
    return script, history


@pytest.mark.parametrize("head", ["train", "freeze"])
def test_a_stopped_task_is_absent_and_its_head_trains_on_or_is_frozen(head):
    script, history = fit(make_model(), TaskEarlyStopping(patience=2, head=head))
    assert len(history.epoch) == 6
    assert history.history["age_weight"] == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    assert history.history["job_weight"] == [1.0] * 6
    everything = {"trunk", "norm", "age", "job", "aux"}
    assert script.moved(2) == everything
    assert script.moved(3) == (everything if head == "train" else everything - {"norm", "age"})
    assert len(script.traces) == 1


@pytest.mark.parametrize("head", ["train", "freeze"])
def test_a_stopped_task_gets_its_private_variables_of_the_best_epoch_back(head):
    model = make_model()
    stopping = TaskEarlyStopping(patience=2, head=head, restore_best_weights=True)
    script, _ = fit(model, stopping, epochs=3)
    assert stopping.best_epoch["age"] == 0
    assert stopping.stopped_epoch == {"age": 2}
    for variable in model.weights:
        epoch = 0 if variable.path.split("/")[0] in ("age", "norm") else 2
        np.testing.assert_array_equal(variable, script.weights[epoch][variable.path])


BEFORE_A_STOP, AFTER_A_STOP = (2, 1), (4, 0)


@pytest.mark.parametrize(
    ("head", "killed_at", "first"),
    [
        ("train", BEFORE_A_STOP, True),
        # The same two ways of each head crossed: four runs to train and to trace.
        pytest.param("train", AFTER_A_STOP, False, marks=pytest.mark.slow),
        pytest.param("freeze", BEFORE_A_STOP, False, marks=pytest.mark.slow),
        ("freeze", AFTER_A_STOP, True),
    ],
)
def test_run_killed_in_an_epoch_and_restarted_equals_one_without_a_break(
    head, killed_at, first, tmp_path
):
    def run(model, *, broken=False, backup=True):
        stopping = TaskEarlyStopping(patience=2, head=head, restore_best_weights=True)
        parts = [Script(killed_at if broken else None, **SERIES), stopping]
        if backup:
            backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
            parts.insert(0 if first else len(parts), backup)
        history = model.fit(X, Y, epochs=8, callbacks=parts, **FIT).history
        return history, stopping

    whole, restarted = make_model(), make_model(seed=9)
    history, stopping = run(whole, backup=False)
    with pytest.raises(Killed):
        run(make_model(), broken=True)
    found, resumed = run(restarted)
    for name in ("stopped_epoch", "end_value", "best", "best_epoch"):
        assert getattr(resumed, name) == getattr(stopping, name)
    for name, row in history.items():
        np.testing.assert_allclose(found[name], row[killed_at[0] :], rtol=ROUNDING, err_msg=name)
    assert_same_variables(restarted, whole)


def assert_same_variables(model, other):
    pairs = zip(
        [*model.weights, *model.optimizer.variables],
        [*other.weights, *other.optimizer.variables],
        strict=True,
    )
    for mine, theirs in pairs:
        np.testing.assert_allclose(mine, theirs, rtol=ROUNDING, atol=ROUNDING)


def test_saved_model_resumed_at_initial_epoch_equals_one_without_a_break(tmp_path):
    whole, half = make_model(), make_model()
    stopping = TaskEarlyStopping(patience=2, restore_best_weights=True)
    fit(whole, stopping)
    fit(half, TaskEarlyStopping(patience=2, restore_best_weights=True), epochs=2)
    half.save(tmp_path / "half.keras")
    loaded = keras.saving.load_model(tmp_path / "half.keras")
    resumed = TaskEarlyStopping(patience=2, restore_best_weights=True)
    fit(loaded, resumed, initial_epoch=2)
    assert resumed.stopped_epoch == stopping.stopped_epoch == {"age": 2, "job": 5}
    assert resumed.best == stopping.best
    assert_same_variables(loaded, whole)


def test_a_run_goes_on_in_a_model_whose_tasks_come_in_another_order(tmp_path):
    def make(*tasks):
        inputs = keras.Input((3,), name="x")
        outputs = {task: keras.layers.Dense(1, name=task)(inputs) for task in tasks}
        model = keras_mtl.MultiTaskModel(inputs, outputs)
        model.compile("sgd", loss="mse")
        return model

    logs = rows(val_size_loss=[3.0, 4.0, 5.0, 5.0], val_age_loss=[9.0, 8.0, 7.0, 7.0])
    model, loaded = make("size", "age"), make("age", "size")
    drive(model, TaskEarlyStopping(patience=1, head="freeze"), logs[:2])
    model.save_weights(tmp_path / "model.weights.h5")
    loaded.load_weights(tmp_path / "model.weights.h5")
    resumed = TaskEarlyStopping(patience=1, head="freeze")
    assert drive(loaded, resumed, logs[2:], first=2) == 3
    assert resumed.stopped_epoch == {"size": 1, "age": 3}
    assert resumed.best == {"size": 3.0, "age": 7.0}


def test_a_fit_that_starts_anew_resumes_what_was_stopped():
    model = make_model()
    stopping = TaskEarlyStopping(patience=2)
    _, first = fit(model, stopping)
    _, second = fit(model, stopping)
    assert second.history["age_weight"] == first.history["age_weight"]
    assert second.epoch == first.epoch


def test_a_run_resumed_after_its_end_ends_at_once():
    model = make_model()
    _, first = fit(model, TaskEarlyStopping(patience=2))
    iterations = int(model.optimizer.iterations)
    _, second = fit(model, TaskEarlyStopping(patience=2), initial_epoch=len(first.epoch))
    # Keras looks at `stop_training` after a step.
    assert (len(second.epoch), int(model.optimizer.iterations)) == (1, iterations + 1)


@pytest.mark.parametrize("head", ["train", "freeze"])
def test_two_replicas_stop_the_same_tasks_with_the_same_result(head, strategy):
    with strategy.scope():
        model = make_model(optimizer=keras.optimizers.SGD(0.1, momentum=0.5))
    # Another seed a replica, and other batch statistics: only the stopping can be the same.
    stopping = TaskEarlyStopping(patience=2, head=head, restore_best_weights=True)
    script, history = fit(model, stopping)
    assert stopping.stopped_epoch == {"age": 2, "job": 5}
    assert len(history.epoch) == 6
    assert ("age" in script.moved(4)) is (head == "train")


def test_the_end_value_is_printed_where_verbose(capsys):
    fit(make_model(), TaskEarlyStopping(patience=2, verbose=1))
    printed = [line for line in capsys.readouterr().out.split("\n") if line]
    assert printed == [
        "Epoch 3: TaskEarlyStopping stopped 'age': val_age_loss ended at 2, best 1 in epoch 1.",
        "Epoch 6: TaskEarlyStopping stopped 'job': val_job_loss ended at 2, best 0.5 in epoch 4.",
        "Epoch 6: all main tasks have stopped.",
    ]


def test_a_value_that_is_not_logged_is_warned_about_once(driven_model):
    stopping = TaskEarlyStopping(tasks=["age", "job"], head="freeze")
    with pytest.warns(
        UserWarning, match=r"'val_age_loss' is not in the logs.*validation_data"
    ) as w:
        drive(driven_model, stopping, [{"age_loss": 1.0}] * 3)
    assert len(w) == 1
    assert stopping.stopped_epoch == {}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"monitor": "val_loss"}, ValueError, r"must hold '\{task\}'.*EarlyStopping"),
        ({"monitor": None}, TypeError, "`monitor` must be a string, received None"),
        ({"tasks": "age"}, TypeError, r"Write `tasks=\['age'\]`"),
        ({"mode": "mim"}, ValueError, "Did you mean 'min'"),
        ({"head": "frozen"}, ValueError, r"`head` must be one of .*'freeze'"),
        ({"patience": -1}, ValueError, "`patience` must be an integer >= 0"),
        ({"patience": 1.5}, TypeError, "`patience` must be an integer >= 0"),
        ({"min_delta": float("nan")}, ValueError, "`min_delta` must be a finite number"),
        ({"start_from_epoch": -1}, ValueError, "`start_from_epoch` must be an integer"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        TaskEarlyStopping(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": ["aeg"]}, "Rename the key 'aeg' to 'age'"),
        ({"tasks": ["idle"]}, "Leave 'idle' out: the task has no loss"),
        ({"monitor": "val_{task}_accuracy"}, r"'val_age_accuracy' for task 'age'.*tasks=\["),
        ({"monitor": "val_{task}_los"}, "Did you mean 'age_loss'.*`mode='min'`"),
    ],
)
def test_wrong_tasks_and_monitors_are_refused_before_the_first_step(
    driven_model, arguments, message
):
    with pytest.raises(ValueError, match=message):
        drive(driven_model, TaskEarlyStopping(**arguments), [])
