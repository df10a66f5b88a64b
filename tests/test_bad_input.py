"""What `compile`, `fit` and `evaluate` refuse: clearly, before the first step, in whole."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_mtl
from keras_mtl import MultiTaskModel, Task
from keras_mtl.heads import BinaryClassification, Classification, Detection, Regression

ROWS = 8
X = np.random.default_rng(0).normal(size=(ROWS, 4)).astype("float32")
TASKS = r"\['sex', 'job', 'age'\]"


def labels(**changed):
    y = {"sex": np.arange(ROWS) % 2, "job": np.arange(ROWS) % 3, "age": np.linspace(0.0, 1.0, ROWS)}
    y.update(changed)
    return {task: value for task, value in y.items() if value is not ...}


def build(optimizer="sgd", **compile_arguments):
    tasks = {"sex": BinaryClassification(), "job": Classification(3), "age": Regression()}
    trunk = keras.layers.Dense(5, activation="relu", name="trunk")
    model = keras_mtl.architectures.hard_sharing(keras.Input((4,), name="x"), trunk, tasks)
    model.compile(optimizer, **compile_arguments)
    return model


@pytest.fixture(scope="module")
def shared_model():
    return build()


@pytest.fixture
def model(shared_model):
    """A model that must come out of the test as it went in, and still train."""
    weights, steps = shared_model.get_weights(), int(shared_model.optimizer.iterations)
    yield shared_model
    for before, after in zip(weights, shared_model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert int(shared_model.optimizer.iterations) == steps
    assert np.isfinite(shared_model.train_on_batch(X, labels(), return_dict=True)["loss"])


def fit(model, *args, **kwargs):
    model.fit(*args, verbose=0, **kwargs)


def batches_of(y):
    for start in (0, 4):
        part = slice(start, start + 4)
        yield X[part], {task: value[part] for task, value in y.items()}


class Batches(keras.utils.PyDataset):
    def __init__(self, y):
        super().__init__()
        self._batches = list(batches_of(y))

    def __len__(self):
        return len(self._batches)

    def __getitem__(self, index):
        return self._batches[index]


def dataset_of(y):
    return tf.data.Dataset.from_tensor_slices((X, y)).batch(4)


SOURCES = {
    "arrays": lambda y: (X, y),
    "tf.data": lambda y: (dataset_of(y),),
    "PyDataset": lambda y: (Batches(y),),
    "generator": lambda y: (batches_of(y),),
}
BAD_LABELS = {
    "missing": (
        {"age": ...},
        rf"`y` must have exactly one entry per task. Expected keys {TASKS}, received "
        r"\['sex', 'job'\]. Missing: \['age'\]. Unknown: \[\]. .*compile with `loss={'age': None}`",
    ),
    "misspelt": (
        {"age": ..., "agee": np.zeros(ROWS)},
        r"Missing: \['age'\]. Unknown: \['agee'\]. Rename the key 'agee' to 'age'",
    ),
    "shape": ({"age": np.zeros((ROWS, 2))}, r"`y\['age'\]` must have shape \('batch', 1\)"),
    "strings": ({"sex": np.array(["m"] * ROWS)}, r"`y\['sex'\]` must hold numbers.*StringLookup"),
    "class too high": (
        {"job": np.full(ROWS, 3)},
        r"`y\['job'\]` must hold class ids from 0 to 2, or -1 where .*`num_classes`. Received 3\.",
    ),
    "unknown marker": ({"job": np.full(ROWS, -2)}, r"class ids from 0 to 2, or -1.* Received -2\."),
    "float marker": (
        {"job": np.full(ROWS, -1.0)},
        r"class ids from 0 to 2, or NaN where a float label is missing .*Received -1",
    ),
    "fraction": ({"job": np.full(ROWS, 0.5)}, r"`y\['job'\]` must hold class ids, .*fraction"),
    "yes-no of 2": ({"sex": np.full(ROWS, 2)}, r"`y\['sex'\]` must hold labels from 0 to 1"),
    "one-hot": (
        {"job": np.eye(3)[np.arange(ROWS) % 3]},
        r"`y\['job'\]` must have shape \('batch',\).* look one-hot: .*'categorical_crossentropy'",
    ),
}


def test_optimizer_that_does_not_know_the_learned_weights_is_refused_by_compile():
    model = build("sgd")
    with pytest.raises(ValueError, match=r"without the variables .*'uncertainty.*SGD\.from_co"):
        model.compile(model.optimizer, loss_weighting="uncertainty")
    model.compile(model.optimizer)  # as in Keras, with nothing learned


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", BAD_LABELS)
def test_bad_labels_are_refused_before_the_first_step(model, name, source):
    changed, message = BAD_LABELS[name]
    with pytest.raises(ValueError, match=f"(?s){message}") as raised:
        fit(model, *SOURCES[source](labels(**changed)))
    assert "in user code" not in str(raised.value)


@pytest.mark.parametrize("source", SOURCES)
def test_bad_validation_labels_are_refused_before_the_first_step(model, source):
    bad = SOURCES[source](labels(job=...))
    with pytest.raises(ValueError, match=r"Missing: \['job'\]"):
        fit(model, X, labels(), validation_data=bad if len(bad) > 1 else bad[0])


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", ["shape", "class too high", "unknown marker", "fraction"])
def test_bad_values_in_validation_labels_are_refused_before_the_first_step(model, name, source):
    changed, message = BAD_LABELS[name]
    bad = SOURCES[source](labels(**changed))
    with pytest.raises(ValueError, match=message):
        fit(model, X, labels(), validation_data=bad if len(bad) > 1 else bad[0])


@pytest.mark.parametrize("source", ["tf.data", "cached", "drawn", "generator"])
def test_checking_validation_data_loses_no_batch(source, tmp_path):
    data = {
        "tf.data": lambda: dataset_of(labels()),
        "cached": lambda: dataset_of(labels()).cache(str(tmp_path / "cache")),
        "drawn": lambda: tf.data.Dataset.from_generator(
            lambda: batches_of(labels()), output_signature=dataset_of(labels()).element_spec
        ),
        "generator": lambda: batches_of(labels()),
    }[source]()
    model = build(keras.optimizers.SGD(0.0))

    history = model.fit(X, labels(), validation_data=data, validation_steps=2, verbose=0).history

    expected = model.evaluate(X, labels(), verbose=0, return_dict=True)
    assert history["val_job_loss"][0] == pytest.approx(expected["job_loss"], rel=1e-5)
    assert history["val_age_mae"][0] == pytest.approx(expected["age_mae"], rel=1e-5)


@pytest.mark.parametrize("method", ["evaluate", "train_on_batch", "test_on_batch"])
def test_every_entry_checks_labels(model, method):
    with pytest.raises(ValueError, match=r"`y\['job'\]` must hold class ids.* Received 7"):
        getattr(model, method)(X, labels(job=np.full(ROWS, 7)))
    with pytest.raises(TypeError, match="`y` must be a dict keyed by task name"):
        getattr(model, method)(X)


def test_a_data_set_with_a_bad_label_is_refused_in_evaluation_too(model):
    with pytest.raises(ValueError, match=r"`y\['job'\]` must hold class ids.* Received 7"):
        model.evaluate(dataset_of(labels(job=np.full(ROWS, 7))), verbose=0)


BAD_FIT = {
    "y is a list": (lambda: {"y": list(labels().values())}, TypeError, "`y` must be a dict keyed"),
    "y is an array": (lambda: {"y": X}, TypeError, "`y` must be a dict keyed .*type ndarray"),
    "no y": (lambda: {"y": None}, TypeError, r"Write `y={'sex': ..., 'job': ..., 'age': ...}`"),
    "no y, x a list": (lambda: {"x": [X], "y": None}, TypeError, "`y` must be a dict keyed"),
    "labels in a list": (
        lambda: {"y": labels(age=[1.0] * ROWS)},
        TypeError,
        r"`y\['age'\]` must be an array, received list. Write `np.array",
    ),
    "no labels": (
        lambda: {"y": labels(age=None)},
        TypeError,
        r"`y\['age'\]` must be an array.*compile with `loss={'age': None}`",
    ),
    "labels in a dict": (
        lambda: {"y": labels(age={"years": np.zeros(ROWS)})},
        ValueError,
        r"`y\['age'\]` must be one array.*keys \['years'\]",
    ),
    "None among labels": (
        lambda: {"y": labels(sex=np.array([0, None] * 4, dtype=object))},
        ValueError,
        r"`y\['sex'\]` must be an array of numbers.*NaN where float",
    ),
    "misspelt sample_weight": (
        lambda: {"sample_weight": {"agee": np.ones(ROWS)}},
        ValueError,
        rf"`sample_weight` must have only task names as keys. Expected keys {TASKS}, received "
        r"\['agee'\]. .*Unknown: \['agee'\]. Rename the key 'agee' to 'age'",
    ),
    "list of sample weights": (
        lambda: {"sample_weight": [np.ones(ROWS)] * 3},
        TypeError,
        "`sample_weight` must be one array for all tasks, or a dict",
    ),
    "shape of sample_weight": (
        lambda: {"sample_weight": {"age": np.ones((ROWS, 3))}},
        ValueError,
        r"'age': its `sample_weight` of shape \(\w+, 3\) does not fit .* Give one entry a row",
    ),
    "misspelt class_weight": (
        lambda: {"class_weight": {"jobs": {0: 2.0}}},
        ValueError,
        r"`class_weight` must have only task names .*Unknown: \['jobs'\]. Rename the key 'jobs'",
    ),
    "class_weight without tasks": (
        lambda: {"class_weight": {0: 1.0, 1: 2.0}},
        ValueError,
        rf"`class_weight` must have only task names as keys. Expected keys {TASKS}",
    ),
    "class_weight of numbers": (
        lambda: {"class_weight": {"age": {0: 1.0}}},
        ValueError,
        r"`class_weight\['age'\]` needs a task with class labels.*`sample_weight`",
    ),
    "class_weight of no class": (
        lambda: {"class_weight": {"job": {3: 1.0}}},
        ValueError,
        r"`class_weight\['job'\]` must have class ids from 0 to 2 as keys, received 3",
    ),
    "class_weight is NaN": (
        lambda: {"class_weight": {"job": {0: np.nan}}},
        ValueError,
        r"`class_weight\['job'\]\[0\]` must be a finite number >= 0, received nan of type float. "
        "Use 0.0 to leave the class out",
    ),
    "class_weight is a list": (
        lambda: {"class_weight": {"job": [1.0, 2.0, 3.0]}},
        TypeError,
        r"`class_weight\['job'\]` must be a dict from class id to weight",
    ),
}


@pytest.mark.parametrize("name", BAD_FIT)
def test_fit_refuses(model, name):
    arguments, error, message = BAD_FIT[name]
    with pytest.raises(error, match=f"(?s){message}"):
        fit(model, **{"x": X, "y": labels(), **arguments()})


def test_data_sets_must_yield_labels_by_task_in_batches(model):
    pairs = tf.data.Dataset.from_tensor_slices((X, labels()))
    with pytest.raises(ValueError, match=r"must yield `\(x, y\)`.*Expected keys"):
        fit(model, pairs.map(lambda x, y: x).batch(4))
    with pytest.raises(TypeError, match="`y` must be a dict keyed by task name"):
        fit(model, pairs.map(lambda x, y: (x, (y["sex"], y["job"], y["age"]))).batch(4))
    with pytest.raises(ValueError, match=r"axis of the batch is missing: write `dataset.batch"):
        fit(model, pairs)
    with pytest.raises(ValueError, match=r"must yield `\(x, y\)`.*Expected keys"):
        fit(model, X, labels(), validation_data=pairs.map(lambda x, y: x).batch(4))


def test_a_generator_loses_no_batch():
    seen = []

    def batches():
        for x, y in batches_of(labels()):
            seen.append(len(x))
            yield x, y

    model = build()
    twin = model.clone()
    twin.compile("sgd")
    twin.set_weights(model.get_weights())
    model.fit(batches(), steps_per_epoch=2, verbose=0)
    twin.fit(X, labels(), batch_size=4, shuffle=False, verbose=0)
    assert seen == [4, 4]
    for one, other in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


BAD_COMPILE = {
    "misspelt loss": (
        {"loss": {"jobs": "mse"}},
        ValueError,
        rf"`loss` must have only task names as keys. Expected keys {TASKS}, received \['jobs'\]. "
        r"Missing: \[\]. Unknown: \['jobs'\]. Rename the key 'jobs' to 'job', or name the task",
    ),
    "misspelt metrics": ({"metrics": {"jobs": "mse"}}, ValueError, "`metrics` .* key 'jobs' to"),
    "misspelt loss_weights": (
        {"loss_weights": {"jobs": 1.0}},
        ValueError,
        r"`loss_weights` must have only .* Unknown: \['jobs'\]. Rename the key 'jobs' to 'job'",
    ),
    "weighted_metrics": (
        {"weighted_metrics": {"jobs": "mse"}},
        ValueError,
        "`weighted_metrics` .* key 'jobs' to 'job'",
    ),
    "list of losses": (
        {"loss": ["bce", "mse", "mae"]},
        TypeError,
        "`loss` must be a dict .*Write `loss={'sex': 'bce', 'job': 'mse', 'age': 'mae'}`",
    ),
    "list of metrics": (
        {"metrics": ["accuracy"]},
        TypeError,
        r"Write `metrics={'sex': \['accuracy'\], 'job': \['accuracy'\], 'age': \['accuracy'\]}`",
    ),
    "list of loss_weights": (
        {"loss_weights": [1.0, 0.5, 2.0]},
        TypeError,
        "Write `loss_weights={'sex': 1.0, 'job': 0.5, 'age': 2.0}`",
    ),
    "NaN weight": (
        {"loss_weights": {"job": np.nan}},
        ValueError,
        r"`loss_weights\['job'\]` must be a finite number >= 0, received nan of type float. "
        "Use 0.0 to switch a task's loss off",
    ),
    "negative weight": ({"loss_weights": {"job": -1}}, ValueError, "number >= 0, received -1 of"),
    "weight in words": ({"loss_weights": {"job": "1"}}, TypeError, "number >= 0, received '1' of"),
    "weight without loss": (
        {"loss": {"job": None}, "loss_weights": {"job": 1.0}},
        ValueError,
        "Leave 'job' out: the task has no loss",
    ),
    "unknown loss": (
        {"loss": {"age": "msee"}},
        ValueError,
        "`loss` of task 'age' is not known to Keras: 'msee' .* Did you mean 'mse'",
    ),
    "unreduced loss": (
        {"loss": {"age": keras.losses.MeanSquaredError(reduction=None)}},
        ValueError,
        "`loss` of task 'age' has reduction=None, .* Use reduction=",
    ),
    "unknown metric": (
        {"metrics": {"job": "acuracy"}},
        ValueError,
        "`metrics` of task 'job' .*'acuracy' .* Did you mean 'accuracy'",
    ),
    "no loss": ({"loss": None}, ValueError, f"`loss` must give one of the tasks {TASKS} a loss"),
    "unknown weighting": (
        {"loss_weighting": "uncertanty"},
        ValueError,
        r"`loss_weighting` has no method named 'uncertanty'. Did you mean 'uncertainty'\? Names",
    ),
    "unknown balancing": (
        {"gradient_balancing": "mgba"},
        ValueError,
        r"`gradient_balancing` has no method named 'mgba'. Did you mean 'mgda'\? Names: \[",
    ),
    "balancing is a number": (
        {"gradient_balancing": 3},
        TypeError,
        "`gradient_balancing` must be a name, .* received 3 of type int",
    ),
    "unknown policy": (
        {"on_nonfinite": "skipp"},
        ValueError,
        r"`on_nonfinite` must be one of \[None, 'raise', 'skip'\].* Did you mean 'skip'",
    ),
    "unknown baseline": (
        {"baselines": {"job_acc": 0.9}},
        ValueError,
        "`baselines` must be keyed by log names .* Did you mean 'job_accuracy'",
    ),
    "baseline of 0": ({"baselines": {"age_mae": 0.0}}, ValueError, "'age_mae'.* must not be 0"),
    "list of baselines": ({"baselines": [0.9]}, TypeError, "`baselines` must be a dict keyed"),
    "colliding metric": (
        {"metrics": {"job": [keras.metrics.SparseCategoricalAccuracy(name="loss")]}},
        ValueError,
        r"occur twice: \['job_loss'\].*rename a task or a metric",
    ),
    "one metric twice": (
        {"metrics": {"age": ["mse", "mse"]}},
        ValueError,
        r"occur twice: \['age_mse'\]",
    ),
}


@pytest.mark.parametrize("name", BAD_COMPILE)
def test_compile_refuses_and_the_model_stays_as_compiled_before(model, name):
    arguments, error, message = BAD_COMPILE[name]
    before = dict(model.loss_weights)
    with pytest.raises(error, match=f"(?s){message}"):
        model.compile("sgd", **arguments)
    assert dict(model.loss_weights) == before


def test_one_metric_object_must_not_serve_two_tasks(model):
    metric = keras.metrics.MeanSquaredError()
    with pytest.raises(ValueError, match="gives one object, 'mean_squared_error', to the tasks"):
        model.compile("sgd", metrics={"sex": metric, "age": [metric]})


def test_where_must_not_name_a_task_whose_labels_have_parts():
    tasks = {"d": Detection(1), "a": Task(Regression(), where="d")}
    trunk = keras.layers.Conv2D(2, 3, name="trunk")
    model = keras_mtl.architectures.hard_sharing(keras.Input((8, 8, 3)), trunk, tasks)
    with pytest.raises(ValueError, match=r"`where='d'` of task 'a' .* parts \['boxes', 'labels'\]"):
        model.compile("sgd")


def test_log_names_of_two_tasks_must_not_collide():
    x = keras.Input((2,))
    outputs = {"a": keras.layers.Dense(1)(x), "a_b": keras.layers.Dense(1)(x)}
    metric = keras.metrics.MeanAbsoluteError(name="b_loss")
    with pytest.raises(ValueError, match=r"occur twice: \['a_b_loss'\]"):
        MultiTaskModel(x, outputs).compile("sgd", loss="mse", metrics={"a": metric})


@pytest.mark.parametrize(
    ("value", "error"),
    [(np.nan, ValueError), (np.inf, ValueError), (-1, ValueError), ("1", TypeError)],
)
def test_the_live_loss_weights_refuse_what_compile_refuses(model, value, error):
    with pytest.raises(error, match=r"`loss_weights\['job'\]` must be a finite number >= 0"):
        model.loss_weights["job"] = value
    assert model.loss_weights["job"] == 1.0


def test_live_values_refuse_unknown_tasks_and_wrong_uses(model):
    with pytest.raises(KeyError, match=r"`loss_weights` has no task 'jobs'.*Did you mean 'job'"):
        model.loss_weights["jobs"] = 1.0
    with pytest.raises(TypeError, match=r"`task_weights` is read-only.*`model.loss_weights`"):
        model.task_weights["job"] = 1.0
    with pytest.raises(TypeError, match=r"none can be deleted. Set it to 0.0"):
        del model.loss_weights["job"]
    for change in (model.stop_task, model.resume_task):
        with pytest.raises(KeyError, match=r"has no task 'jobs'.*Did you mean 'job'"):
            change("jobs")


def test_choosing_tasks_refuses_unknown_names(model, tmp_path):
    with pytest.raises(ValueError, match=r"Unknown: \['jobs'\]. Rename the key 'jobs' to 'job'"):
        model.task_model("jobs")
    with pytest.raises(ValueError, match=r"`tasks` must have only .*Unknown: \['jobs'\]"):
        model.export(tmp_path / "served", tasks=["jobs"])
    with pytest.raises(TypeError, match=r"`tasks` must be a list .*Write `tasks=\['job'\]`"):
        model.export(tmp_path / "served", tasks="job")
    assert not (tmp_path / "served").exists()


@pytest.mark.parametrize(
    ("tasks", "error", "message"),
    [
        ([], ValueError, r"`tasks` must name one task at least, and each once, received \[\]"),
        (["job", "job"], ValueError, r"each once, received \['job', 'job'\]"),
        ([["job"]], TypeError, r"`tasks` must hold names of tasks, received \[\['job'\]\]"),
        (3, TypeError, r"`tasks` must be a list of task names, received 3 of type int"),
    ],
)
def test_choosing_tasks_refuses_other_than_names_once_each(model, tmp_path, tasks, error, message):
    with pytest.raises(error, match=message):
        model.export(tmp_path / "served", tasks=tasks)
    assert not (tmp_path / "served").exists()


def test_a_single_task_model_takes_one_name(model):
    with pytest.raises(TypeError, match=r"`task` must be the name of one task, .*\['job'\]"):
        model.task_model(["job"])


def test_what_needs_compile_says_so():
    model = build().clone()
    for use in (lambda: model.loss_weights, lambda: model.task_weights):
        with pytest.raises(RuntimeError, match="`compile` must be called first"):
            use()
    with pytest.raises(RuntimeError, match="`compile` must be called first"):
        model.stop_task("job")
    with pytest.raises(ValueError, match=r"call `compile\(\)` before"):
        model.fit(X, labels())


def test_an_output_without_a_loss_takes_no_label():
    model = build(loss={"job": None})
    with pytest.raises(ValueError, match=r"Unknown: \['job'\]. Leave 'job' out: the task has no"):
        model.fit(X, labels(), verbose=0)
    logs = model.evaluate(X, labels(job=...), return_dict=True, verbose=0)
    assert "job_loss" not in logs
    assert "job" in model.predict(X, verbose=0)


@pytest.mark.parametrize(
    ("loss", "y", "advice"),
    [
        ("categorical_crossentropy", np.zeros(ROWS, "int32"), "look like class ids: .*'sparse_"),
        ("categorical_crossentropy", np.zeros((ROWS, 4)), "Reshape the labels"),
        ("kl_divergence", np.zeros((ROWS, 1)), "Reshape the labels"),
    ],
)
def test_losses_over_a_row_need_labels_in_the_shape_of_the_predictions(loss, y, advice):
    model = build(loss={"job": loss})
    with pytest.raises(ValueError, match=rf"`y\['job'\]` must have shape \('batch', 3\).*{advice}"):
        model.fit(X, labels(job=y), verbose=0)


@pytest.mark.parametrize("loss", ["mse", keras.losses.mean_squared_error, "crossentropy"])
def test_labels_in_a_dict_are_refused_for_a_loss_of_keras_however_it_is_given(loss):
    model = build(loss={"age": loss})
    with pytest.raises(ValueError, match=r"`y\['age'\]` must be one array.*keys \['years'\]"):
        model.fit(X, labels(age={"years": np.zeros(ROWS)}), verbose=0)


def test_missing_labels_are_refused_for_a_loss_of_keras_that_is_one_number_for_all_rows():
    model = build(loss={"age": keras.losses.Dice()})
    age = np.where(np.arange(ROWS) < 2, np.nan, 1.0)[:, None]
    with pytest.raises(ValueError, match="`loss` of task 'age' returns a scalar, which cannot be"):
        model.fit(X, labels(age=age), verbose=0)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ({"job": np.full(ROWS, 3)}, r"`y\['job'\]` must hold class ids from 0 to 2"),
        ({"job": np.zeros((ROWS, 4))}, r"`y\['job'\]` must have shape \('batch', 3\)"),
        ({"sex": np.full(ROWS, 2)}, r"`y\['sex'\]` must hold labels from 0 to 1"),
    ],
)
def test_a_loss_that_keras_picks_by_shape_is_checked_as_the_one_picked(y, message):
    model = build(loss={"sex": "crossentropy", "job": "crossentropy"})
    with pytest.raises(ValueError, match=message):
        model.fit(X, labels(**y), verbose=0)


def ignoring(marker):
    return keras.losses.SparseCategoricalCrossentropy(ignore_class=marker)


@pytest.mark.parametrize("head_marker", [1, None])
def test_two_classes_that_mean_no_label_are_refused(head_marker):
    task = Task(Classification(3, ignore_class=head_marker), loss=ignoring(0))
    x = keras.Input((4,), name="x")
    model = keras_mtl.architectures.hard_sharing(x, keras.layers.Dense(5), {"job": task})
    message = rf"`ignore_class` of task 'job' .* {head_marker} from the head and 0 from the loss"
    with pytest.raises(ValueError, match=message):
        model.compile("sgd")


@pytest.mark.parametrize("loss", ["hinge", keras.losses.squared_hinge, keras.losses.Hinge()])
def test_minus_one_cannot_mean_both_no_and_no_label(loss):
    def compiled(**arguments):
        head = BinaryClassification(activation=None, **arguments)
        x = keras.Input((4,), name="x")
        trunk = keras.layers.Dense(5)
        model = keras_mtl.architectures.hard_sharing(x, trunk, {"a": Task(head, loss=loss)})
        model.compile("sgd", metrics=None)
        return model

    with pytest.raises(ValueError, match=r"`ignore_class` of task 'a' .* -1 .*`ignore_class=None`"):
        compiled()
    model, y = compiled(ignore_class=None), np.where(np.arange(ROWS) % 2, 1, -1)
    found = model.test_on_batch(X, {"a": y}, return_dict=True)["a_loss"]
    expected = np.mean(keras.losses.get(loss)(y[:, None], model.predict(X, verbose=0)["a"]))
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_float_label_is_not_missing_where_it_is_the_class_that_the_loss_ignores():
    model = build(loss={"job": ignoring(0)})
    with pytest.raises(ValueError, match=r"must hold NaN .*`ignore_class=0` marks integers"):
        model.fit(X, labels(job=np.arange(ROWS) % 3.0), verbose=0)


def test_a_marker_that_the_labels_cannot_hold_is_no_marker():
    model = build()
    with pytest.raises(ValueError, match=r"`y\['job'\]` must hold class ids .* Received 255"):
        model.fit(X, labels(job=np.full(ROWS, 255, "uint8")), verbose=0)


def test_weights_of_another_rank_than_before_are_named():
    model = build()
    model.fit(X, labels(), sample_weight={"age": np.ones((ROWS, 1))}, verbose=0)
    with pytest.raises(ValueError, match="`sample_weight` has an unknown rank, or another one th"):
        model.fit(X, labels(), sample_weight={"age": np.ones(ROWS)}, verbose=0)


BAD_MODELS = {
    "list": (lambda x, y: MultiTaskModel(x, [y]), TypeError, r"Write `outputs={'job': \.\.\.}`"),
    "tensor": (MultiTaskModel, TypeError, "`outputs` must be a dict .*KerasTensor"),
    "no task": (lambda x, y: MultiTaskModel(x, {}), ValueError, "at least one task, received none"),
    "name of a log": (
        lambda x, y: MultiTaskModel(x, {"val_job": y}),
        ValueError,
        "must not start with 'val_', nor be 'val'.*'val_job'. Rename the task",
    ),
    "name of the validation loss": (
        lambda x, y: MultiTaskModel(x, {"val": y}),
        ValueError,
        "must not start with 'val_', nor be 'val'.*received 'val'. Rename the task",
    ),
    "no name of a layer": (
        lambda x, y: MultiTaskModel(x, {"a b": y}),
        ValueError,
        "task name must be a string of letters.*received 'a b'",
    ),
    "unknown task": (
        lambda x, y: MultiTaskModel(x, {"job": y}, tasks={"jobs": Task()}),
        ValueError,
        r"`tasks` must have only .* Expected keys \['job'\].* Unknown: \['jobs'\].* 'job'",
    ),
    "no task object": (
        lambda x, y: MultiTaskModel(x, {"job": y}, tasks={"job": "mse"}),
        TypeError,
        "must be a `keras_mtl.Task` or a head .*received 'mse'",
    ),
    "head of a finished output": (
        lambda x, y: MultiTaskModel(x, {"job": y}, tasks={"job": Classification(2)}),
        ValueError,
        r"`tasks\['job'\]` must have no head: .*`outputs={'job': head\(features\)}`",
    ),
    "layers of a finished output": (
        lambda x, y: MultiTaskModel(x, {"job": y}, tasks={"job": Task(tower=[], features="s4")}),
        ValueError,
        r"`tasks\['job'\]` must have no tower and no features: ",
    ),
    "where unknown": (
        lambda x, y: MultiTaskModel(x, {"job": y, "sex": y}, tasks={"job": Task(where="sexs")}),
        ValueError,
        r"`where` of task 'job' must be one of \['sex'\], received 'sexs'. Did you mean 'sex'",
    ),
    "mask unknown": (
        lambda x, y: MultiTaskModel(x, {"job": y}, tasks={"job": Task(mask="xx")}),
        ValueError,
        r"`mask` of task 'job' must be one of \['x'\], received 'xx'",
    ),
    "no loss": (
        lambda x, y: MultiTaskModel(x, {"job": y}).compile("sgd"),
        ValueError,
        "no entry for task 'job', which has no head .*with None for an output without loss",
    ),
}


def test_a_task_may_name_the_head_that_made_its_output():
    x, head = keras.Input((4,), name="x"), Classification(2)
    model = MultiTaskModel(x, {"job": head(x)}, tasks={"job": Task(head, auxiliary=True)})
    assert model.tasks["job"].auxiliary


@pytest.mark.parametrize("name", BAD_MODELS)
def test_models_refuse(name):
    make, error, message = BAD_MODELS[name]
    x = keras.Input((4,), name="x")
    with pytest.raises(error, match=f"(?s){message}"):
        make(x, keras.layers.Dense(2, name="job")(x))


def test_whether_a_task_is_auxiliary_is_no_word():
    with pytest.raises(ValueError, match=r"`auxiliary` must be one of \[False, True\], .*'False'"):
        Task(auxiliary="False")
    assert Task(auxiliary=np.True_).auxiliary is True


@pytest.mark.parametrize(
    "argument",
    [{"gradient_accumulation_steps": 2}, {"use_ema": True, "ema_overwrite_frequency": 1}],
)
def test_optimizers_that_crash_under_a_strategy_are_refused(strategy, argument):
    with strategy.scope():
        model = build()
    with pytest.raises(ValueError, match=rf"`optimizer` has {list(argument)[-1]}=\d, .* Set it to"):
        model.compile(keras.optimizers.SGD(0.1, **argument))
    assert type(model.optimizer).__name__ == "SGD"


@pytest.mark.parametrize("bad", [np.nan, -1.0, np.inf])
def test_sample_weights_must_be_finite_and_not_negative(model, bad):
    weights = np.ones(ROWS)
    weights[3] = bad
    with pytest.raises(ValueError, match=r"`sample_weight\['job'\]` must hold finite numbers >= 0"):
        fit(model, X, labels(), sample_weight={"job": weights})


def weighted_batches(weights):
    for start, (x, y) in zip((0, 4), batches_of(labels()), strict=True):
        part = keras.tree.map_structure(lambda w, start=start: w[start : start + 4], weights)
        yield x, y, part


class WeightedBatches(Batches):
    def __init__(self, weights):
        super().__init__(labels())
        self._batches = list(weighted_batches(weights))


WEIGHTED = {
    "tf.data": lambda w: tf.data.Dataset.from_tensor_slices((X, labels(), w)).batch(4),
    "PyDataset": WeightedBatches,
    "generator": weighted_batches,
}


@pytest.mark.parametrize("source", WEIGHTED)
@pytest.mark.parametrize("bad", [np.nan, -1.0])
def test_sample_weights_of_data_sets_must_be_finite_and_not_negative_too(model, source, bad):
    weights = np.where(np.arange(ROWS) == 2, bad, 1.0)
    message = r"must hold finite numbers >= 0\. Give 0\.0 .*Received (nan|-1)"
    with pytest.raises(ValueError, match=r"`sample_weight\['job'\]` " + message):
        fit(model, WEIGHTED[source]({**dict.fromkeys(labels(), np.ones(ROWS)), "job": weights}))
    with pytest.raises(ValueError, match=f"`sample_weight` {message}"):
        fit(model, X, labels(), validation_data=WEIGHTED[source](weights))


def test_live_loss_weights_are_set_together_or_not_at_all(model):
    with pytest.raises(ValueError, match=r"`loss_weights\['age'\]` must be a finite number >= 0"):
        model.loss_weights = {"job": 2.0, "age": -1.0}
    assert dict(model.loss_weights) == {"sex": 1.0, "job": 1.0, "age": 1.0}
    model.loss_weights = {"job": 2.0}
    assert dict(model.loss_weights) == {"sex": 1.0, "job": 2.0, "age": 1.0}
    model.loss_weights = {"job": 1.0}
