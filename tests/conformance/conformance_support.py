"""What the conformance tests share: the methods under test, small models, their data."""

import functools
import inspect
import pathlib
import tempfile
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import ops

import keras_mtl
from keras_mtl.balancing.base import SCOPES, GradientBalancing
from keras_mtl.balancing.base_gramian import GramianBalancing
from keras_mtl.core.method import Method
from keras_mtl.weighting.base import LossWeighting


@keras.saving.register_keras_serializable(package="conformance")
class SignAgreement(GradientBalancing):
    """A user's method on gradients: keeps the coordinates in which no two tasks disagree.

    Gradients are brought to their mean length first, which the Gramian tells.
    """

    def call(self, gradients, gramian, active):
        lengths = ops.sqrt(ops.diagonal(gramian))
        mean = ops.sum(lengths) / ops.maximum(ops.sum(active), 1.0)
        unit = gradients * ops.where(lengths > 0, mean / ops.maximum(lengths, 1e-30), 0.0)[:, None]
        signs = ops.sign(unit)
        agree = ops.abs(ops.sum(signs, axis=0)) >= ops.sum(ops.abs(signs), axis=0)
        return ops.where(agree, ops.sum(unit, axis=0), 0.0)


@keras.saving.register_keras_serializable(package="conformance")
class SmoothedLengths(GramianBalancing):
    """A user's method on the Gramian, with a state a task: a running mean of gradient lengths."""

    def build(self, input_shape):
        super().build(input_shape)
        self.lengths = self.add_task_variable("lengths")

    def solve(self, gramian, active):
        lengths = ops.cast(ops.sqrt(ops.diagonal(gramian)), "float32")
        # Entries of absent tasks and overflowing steps are put back by the model.
        smooth = 0.5 * self.lengths + 0.5 * lengths
        self.lengths.assign(smooth)
        return 1.0 / (1.0 + smooth)


USERS = {"sign_agreement": SignAgreement, "smoothed_lengths": SmoothedLengths}


# Fewer of the same passes to trace: the default, 3, takes twice the time.
OPTIONS = {"auxilearn": {"truncation": 1}}


@functools.cache
def weighting_cases():
    """Returns by id a function that makes the arguments of `compile`."""
    return {
        f"weighting-{name}": functools.partial(_weighting, name)
        for name in keras_mtl.weighting.names()
    }


def _weighting(name):
    cls = type(keras_mtl.weighting.get(name))
    return {"loss_weighting": cls(**OPTIONS[name]) if name in OPTIONS else name}


@functools.cache
def balancing_cases():
    """Returns by id a function that makes the arguments of `compile`."""
    exported = {name: type(keras_mtl.balancing.get(name)) for name in keras_mtl.balancing.names()}
    return {
        f"balancing-{name}-{scope}": functools.partial(_balancing, cls, scope)
        for name, cls in {**exported, **USERS}.items()
        for scope in SCOPES
        if scope == "parameters" or cls.features_reason is None
    }


def _balancing(cls, scope):
    return {"gradient_balancing": cls(scope=scope)}


def method_of(arguments):
    """Returns the method object that the arguments of a case name."""
    if "gradient_balancing" in arguments:
        return arguments["gradient_balancing"]
    return keras_mtl.weighting.get(arguments["loss_weighting"])


def is_random(method):
    """Tells whether a method declares, with its reason, that it draws at random."""
    assert method.random is None or len(method.random) > 20
    return method.random is not None


def _declared(case):
    """Returns what the step reads off a method: each need, each hook written, its variables.

    Discovered from the base classes: what they come to declare later is told apart here too.
    """
    method = method_of(case())
    method.build_for(len(TASKS))
    found = {
        ("trainable", bool(method.trainable_variables)),
        ("state", bool(method.task_variables)),
    }
    for base in (Method, LossWeighting, GradientBalancing, GramianBalancing):
        found.add(("is", base.__name__, isinstance(method, base)))
        if not isinstance(method, base):
            continue
        for key, default in vars(base).items():
            if key.startswith("_"):
                continue
            if inspect.isfunction(default):
                # A hook left alone is no way of its own through the step.
                if getattr(type(method), key) is not default:
                    found.add(("writes", key))
            elif not isinstance(default, property):
                # Reasons and options differ from method to method; that there are some counts.
                value = getattr(method, key)
                named = isinstance(value, bool) or key == "hypergradient"
                found.add(("declares", key, value if named else value != default))
    kind = "weighting" if isinstance(method, LossWeighting) else method.scope
    return {(kind, *declaration) for declaration in found}


@functools.cache
def representatives():
    """Returns ids of cases that declare everything that any method declares, richest first.

    What belongs to the step and not to the method is tested on these by default, once for each
    way through the step in each scope, and on all others in the slow sweep.
    """
    cases = {**weighting_cases(), **balancing_cases()}
    declared = {name: _declared(case) for name, case in cases.items()}
    missing, chosen = set().union(*declared.values()), []
    while missing:
        # As few as may be: each time the one that declares most of what is still missing.
        name = max(declared, key=lambda name: len(declared[name] & missing))
        chosen.append(name)
        missing -= declared[name]
    return chosen


@functools.cache
def richest():
    """Returns ids of the representatives that declare most: a weighting, one in each scope."""
    ways = ("weighting-", *(f"-{scope}" for scope in SCOPES))
    return [next(name for name in representatives() if way in name) for way in ways]


TASKS = ("size", "kind", "flag")
LOSSES = {
    "size": "mse",
    "kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1),
    "flag": keras.losses.BinaryCrossentropy(from_logits=True),
}
UNITS = {"size": 2, "kind": 3, "flag": 1}


def make_model(case, tasks=TASKS, *, auxiliary=(), seed=3, dropout=0.0, penalty=0.0, **given):
    """Returns a compiled model of three tasks, small enough to be traced in 0.3 s."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((5,), name="x")
    regularizer = {"kernel_regularizer": keras.regularizers.L2(penalty)} if penalty else {}
    activity = {"activity_regularizer": keras.regularizers.L2(penalty)} if penalty else {}
    hidden = keras.layers.Dense(8, "tanh", name="trunk", **regularizer, **activity)(inputs)
    hidden = keras.layers.Dropout(dropout)(hidden) if dropout else hidden
    outputs = {
        task: keras.layers.Dense(UNITS[task], name=f"{task}_head", **regularizer)(hidden)
        for task in tasks
    }
    weighting = keras_mtl.weighting.get(case().get("loss_weighting"))
    if weighting.needs_auxiliary_tasks and not auxiliary:
        auxiliary = tasks[1:]
    roles = {task: keras_mtl.Task(auxiliary=True) for task in auxiliary}
    model = keras_mtl.MultiTaskModel(inputs, outputs, tasks=roles)
    given.setdefault("optimizer", keras.optimizers.SGD(0.1, momentum=0.5))
    model.compile(loss={task: LOSSES[task] for task in tasks}, **case(), **given)
    return model


def make_data(rows, tasks=TASKS, *, missing=True, seed=0):
    """Returns inputs and labels; where some are missing they are so unevenly along the rows."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 5)).astype("float32")
    y = {
        "size": random.normal(size=(rows, 2)).astype("float32"),
        "kind": random.integers(0, 3, rows),
        "flag": random.integers(0, 2, (rows, 1)).astype("float32"),
    }
    if missing:
        # Of every 8 rows, the first half has no flag: one of two replicas has none at all.
        y["flag"][np.arange(rows) % 8 < 4] = np.nan
        y["kind"][np.arange(rows) % 8 == 6] = -1
        y["size"][np.arange(rows) % 8 == 1, 0] = np.nan
    return x, {task: y[task] for task in tasks}


def without_labels(y, task):
    """Returns the labels with none left for `task`."""
    gone = -1 if task == "kind" else np.nan
    return {**y, task: np.full_like(y[task], gone)}


def without_any_label(y):
    """Returns the labels with none left for any task."""
    for task in y:
        y = without_labels(y, task)
    return y


def values(model):
    """Returns every number that training moves, by name: weights, optimizer, methods."""
    state = model._training_state
    groups = {
        "weights": model.weights,
        "optimizer": model.optimizer.variables,
        "methods": [v for method in methods(model) for v in method.variables],
        "state": [state.constants, state.stopped, state.effective],
    }
    return {
        f"{group}/{index}/{variable.path}": np.asarray(variable).copy()
        for group, variables in groups.items()
        for index, variable in enumerate(variables)
    }


def methods(model):
    """Returns the weighting and, if there is one, the balancing of a compiled model."""
    found = [model._training_state.loss_weighting, model._training_state.gradient_balancing]
    return [method for method in found if method is not None]


def assert_same(first, second, tolerance):
    """Asserts that two dicts of arrays agree to `tolerance`, and are finite."""
    assert len(first) == len(second)
    for (name, a), b in zip(first.items(), second.values(), strict=True):
        assert np.all(np.isfinite(a)), name
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=name)


def assert_same_history(first, second, tolerance):
    """Asserts that two histories have the same logs with the same values."""
    assert set(first) == set(second)
    for name, numbers in first.items():
        np.testing.assert_allclose(
            numbers, second[name], rtol=tolerance, atol=tolerance, err_msg=name
        )


class TraceCounter:
    """Counts how often Python runs a model's training step, that is how often it is traced."""

    def __init__(self, model):
        self.count = 0
        self._step = model.train_step
        model.train_step = self._counted

    def _counted(self, data):
        self.count += not tf.executing_eagerly()
        return self._step(data)


class Run(NamedTuple):
    """A training of four epochs without a break that several tests compare theirs with."""

    data: Any
    history: dict
    numbers: dict
    model: Any
    traces: TraceCounter
    half: Any  # the model as it was saved after two epochs
    half_numbers: dict


FIT = {"batch_size": 8, "shuffle": False, "verbose": 0}


@functools.lru_cache(maxsize=2)  # the tests of one method follow one another
def reference_run(case, tasks=TASKS, dropout=0.0):
    """Returns a run step by step on one device, saved on its way after two epochs."""
    # 22 rows: the last batch is partial. No flag in the first half of any batch.
    x, y = make_data(22, tasks)
    model = make_model(case, tasks, dropout=dropout, **as_reference())
    traces = TraceCounter(model)
    half_numbers = {}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "half.keras")

        def save(epoch, logs):
            if epoch == 1:
                model.save(path)
                half_numbers.update(values(model))

        saver = keras.callbacks.LambdaCallback(on_epoch_end=save)
        history = model.fit(x, y, epochs=4, callbacks=[saver], **FIT).history
        half = keras.saving.load_model(path)
    return Run((x, y), history, values(model), model, traces, half, half_numbers)


def as_reference():
    """Returns the arguments of `make_model` that make the model of `reference_run`."""
    # Plain SGD with momentum: Adam would hide a wrong scale.
    optimizer = keras.optimizers.SGD(0.1, momentum=0.5, global_clipnorm=0.5)
    return {"penalty": 0.01, "optimizer": optimizer}
