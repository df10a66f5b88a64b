"""What a loss weighting may ask of the training step beyond the losses."""

import contextlib

import keras
import numpy as np
import pytest
from keras import ops

import keras_mtl

ROWS = 8
random = np.random.default_rng(0)
X = random.normal(size=(ROWS, 3)).astype("float32")
Y = {
    "main": random.normal(size=(ROWS, 1)).astype("float32"),
    "helper": random.normal(size=(ROWS, 1)).astype("float32"),
}


@keras.saving.register_keras_serializable(package="tests")
class Recorder(keras_mtl.weighting.LossWeighting):
    """Keeps what its hooks were told."""

    def __init__(self, fresh=False, hypergradient=None, name=None, **kwargs):
        super().__init__(name=name, **kwargs)
        self.needs_fresh_losses = fresh
        self.hypergradient = hypergradient

    def build(self, input_shape):
        super().build(input_shape)
        self.before = self.add_task_variable("before")
        self.after = self.add_task_variable("after")
        self.gradient = self.add_task_variable("gradient")
        self.told = self.add_task_variable("told")

    def call(self, task_losses, active):
        return ops.sum(active * ops.convert_to_tensor([1.0, 0.5]) * task_losses)

    def update_from_fresh_losses(self, task_losses, fresh_losses, active):
        self.before.assign(task_losses)
        self.after.assign(fresh_losses)
        self.told.assign_add(active)

    def update_from_hypergradient(self, gradient, active):
        self.gradient.assign(gradient)
        self.told.assign_add(active)


def build(weighting, *, dropout=0.0, normalize=False, seed=1, **arguments):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((3,), name="x")
    hidden = keras.layers.Dense(4, "tanh")(inputs)
    hidden = keras.layers.BatchNormalization()(hidden) if normalize else hidden
    hidden = keras.layers.Dropout(dropout)(hidden) if dropout else hidden
    outputs = {task: keras.layers.Dense(1, name=task)(hidden) for task in Y}
    tasks = {"helper": keras_mtl.Task(auxiliary=True)}
    model = keras_mtl.MultiTaskModel(inputs, outputs, tasks=tasks)
    arguments.setdefault("optimizer", keras.optimizers.SGD(0.1))
    model.compile(loss="mse", loss_weighting=weighting, **arguments)
    return model


def losses_of(model, rows=slice(None)):
    y = {task: part[rows] for task, part in Y.items()}
    logs = model.evaluate(X[rows], y, batch_size=ROWS, verbose=0, return_dict=True)
    return np.array([logs["main_loss"], logs["helper_loss"]])


def fit(model, epochs=1, **arguments):
    model.fit(X, Y, batch_size=ROWS, epochs=epochs, shuffle=False, verbose=0, **arguments)


def test_fresh_losses_are_those_before_and_after_the_update():
    model = build(Recorder(fresh=True))
    before = losses_of(model)
    fit(model)
    weighting = model._training_state.loss_weighting
    np.testing.assert_allclose(weighting.before, before, rtol=1e-6)
    np.testing.assert_allclose(weighting.after, losses_of(model), rtol=1e-6)
    assert np.all(losses_of(model) < before)


def test_fresh_losses_are_told_when_an_accumulating_optimizer_moves():
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=4)
    model = build(Recorder(fresh=True), optimizer=optimizer)
    model.fit(X, Y, batch_size=1, verbose=0)
    told = model._training_state.loss_weighting
    np.testing.assert_array_equal(told.told, [2.0, 2.0])
    assert (np.asarray(told.before) != np.asarray(told.after)).all()


@pytest.mark.parametrize("hooks", [{"fresh": True}, {"hypergradient": "one_step"}])
def test_hooks_leave_no_trace_in_what_is_trained(hooks):
    model, twin = (
        build(weighting, dropout=0.3, normalize=True)
        for weighting in (Recorder(**hooks), Recorder())
    )
    for one in (model, twin):
        fit(one, epochs=3)
    for new, old in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-6, atol=1e-7)
    seeds = [one._list_seed_generators()[0].state for one in (model, twin)]
    np.testing.assert_array_equal(*seeds)


def test_fresh_losses_have_the_dropout_masks_of_the_step():
    model = build(Recorder(fresh=True), dropout=0.5, optimizer=keras.optimizers.SGD(0.0))
    fit(model, epochs=2)
    weighting = model._training_state.loss_weighting
    np.testing.assert_array_equal(weighting.after, weighting.before)


def one_step_ahead(weights, rate):
    """The main loss on the second half, after a step on the first with these weights."""
    model = build("fixed", loss_weights=dict(zip(Y, weights, strict=True)))
    model.optimizer.learning_rate = rate
    half = {task: part[::2] for task, part in Y.items()}
    model.train_on_batch(X[::2], half)
    return losses_of(model, slice(1, None, 2))[0]


@pytest.mark.parametrize("replicated", [False, True], ids=["one device", "two replicas"])
def test_one_step_hypergradient_equals_the_numerical_derivative(replicated, strategy):
    rate = 0.05
    weighting = Recorder(hypergradient="one_step")
    with strategy.scope() if replicated else contextlib.nullcontext():
        model = build(weighting, optimizer=keras.optimizers.SGD(rate))
    fit(model)
    expected = [
        (one_step_ahead(weights + step, rate) - one_step_ahead(weights - step, rate)) / 0.2
        for weights, step in ((np.array([1.0, 0.5]), 0.1 * row) for row in np.eye(2))
    ]
    # Finite differences in float32: a perturbation of length 0.01 changes losses by 1e-3.
    np.testing.assert_allclose(weighting.gradient, expected, rtol=0.02, atol=1e-5)


def test_replicas_split_an_odd_number_of_rows_as_one_device_does(strategy):
    y, found = {task: part[:6] for task, part in Y.items()}, []
    for scope in (contextlib.nullcontext(), strategy.scope()):
        with scope:
            model = build(Recorder(hypergradient="one_step"))
        model.fit(X[:6], y, batch_size=6, verbose=0)
        found.append(np.asarray(model._training_state.loss_weighting.gradient))
    # Rounding of losses, divided by a perturbation of 0.01.
    np.testing.assert_allclose(*found, rtol=1e-4)


def test_a_hook_is_not_told_of_an_absent_or_stopped_main_task_or_an_overflow():
    model = build(Recorder(hypergradient="one_step"))
    gone = {**Y, "main": np.full_like(Y["main"], np.nan)}
    model.fit(X, gone, batch_size=ROWS, verbose=0)
    np.testing.assert_array_equal(model._training_state.loss_weighting.told, [0.0, 0.0])
    model.stop_task("main")
    fit(model)
    np.testing.assert_array_equal(model._training_state.loss_weighting.told, [0.0, 0.0])
    model.resume_task("main")
    fit(model)
    np.testing.assert_array_equal(model._training_state.loss_weighting.told, [1.0, 1.0])

    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    model = build(Recorder(fresh=True), optimizer=optimizer)
    optimizer.dynamic_scale.assign(3e38)
    model.fit(X, {task: 100 * part for task, part in Y.items()}, batch_size=ROWS, verbose=0)
    np.testing.assert_array_equal(model._training_state.loss_weighting.told, [0.0, 0.0])
    optimizer.dynamic_scale.assign(2.0)
    fit(model)
    np.testing.assert_array_equal(model._training_state.loss_weighting.told, [1.0, 1.0])


def test_hooks_work_under_xla():
    # Without dropout, of which XLA draws other masks.
    for hooks in ({"fresh": True}, {"hypergradient": "one_step"}):
        plain, compiled = (
            build(Recorder(**hooks), normalize=True, jit_compile=jit_compile)
            for jit_compile in (False, True)
        )
        for model in (plain, compiled):
            fit(model, epochs=2)
        methods = [model._training_state.loss_weighting for model in (plain, compiled)]
        for first, second in zip(*(m.get_weights() for m in methods), strict=True):
            np.testing.assert_allclose(first, second, rtol=2e-2, atol=1e-5)
