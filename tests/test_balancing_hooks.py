"""What a gradient balancing may ask of the training step beyond the gradients."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_mtl
from keras_mtl.balancing.base import GradientBalancing
from keras_mtl.balancing.tracking import TrackingBalancing
from keras_mtl.core import pass_for
from keras_mtl.core.parameters_pass import ParametersPass

ROWS = 8
TASKS = ("first", "second")
random = np.random.default_rng(0)
X = random.normal(size=(ROWS, 3)).astype("float32")
Y = {task: random.normal(size=(ROWS, 1)).astype("float32") for task in TASKS}
# Sums in another order.
REORDERED = 1e-6


class Recorder(keras_mtl.balancing.GramianBalancing):
    """Weights by number of the task, and keeps what it was told."""

    def build(self, input_shape):
        super().build(input_shape)
        self.told = self.add_task_variable("told")
        self.count = self.add_weight(
            shape=(), initializer="zeros", trainable=False, aggregation="only_first_replica"
        )

    def solve(self, gramian, active, **more):
        self.count.assign_add(1.0)
        for evidence in more.values():
            told = ops.cast(evidence, "float32")
            self.told.assign(told if len(told.shape) == 1 else ops.sum(told, axis=1))
        return ops.convert_to_tensor([1.0, 3.0])


class Losses(Recorder):
    needs_losses = True


class Cross(Recorder):
    needs_cross_gramian = True
    features_reason = "the halves have features of their own."


class Products(Recorder):
    needs_cross_products = True
    needs_gramian = False
    features_reason = "the halves have features of their own."

    def probe(self, active):
        return ops.convert_to_tensor([0.25, 2.0])


class Heads(Recorder):
    weights_heads = True


class Unread(GradientBalancing):
    """Adds the gradients up, without a look at their inner products."""

    needs_gramian = False

    def call(self, gradients, gramian, active):
        assert gramian is None
        return ops.sum(gradients, axis=0)


class InTurn(TrackingBalancing):
    """Remembers the last gradient of each task, and descends along their sum."""

    needs_one_task = True

    def build(self, input_shape):
        super().build(input_shape)
        self.turn = self.add_weight(
            shape=(), initializer="zeros", trainable=False, aggregation="only_first_replica"
        )

    def choose(self, active):
        return ops.cast(
            ops.equal(ops.arange(self.num_tasks), ops.cast(self.turn, "int32")), "float32"
        )

    def track(self, gradients, tracked, active, chosen):
        self.turn.assign(ops.argmin(chosen))
        rows = ops.where(chosen[:, None] > 0, gradients, tracked[0])
        return rows, [rows]

    def solve(self, gramian, active, chosen):
        return active


def build(balancing=None, seed=1, **arguments):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((3,), name="x")
    hidden = keras.layers.Dense(4, "tanh", name="trunk")(inputs)
    outputs = {task: keras.layers.Dense(1, name=task)(hidden) for task in TASKS}
    model = keras_mtl.MultiTaskModel(inputs, outputs)
    arguments.setdefault("optimizer", keras.optimizers.SGD(0.1))
    model.compile(loss="mse", gradient_balancing=balancing, **arguments)
    return model


def fit(model, y=Y, steps=1):
    model.fit(X, y, batch_size=ROWS, epochs=steps, shuffle=False, verbose=0)


def gradients(x, y, task, layer):
    """The gradient of one task's mean squared error on some rows, as a vector."""
    model = build(loss_weights={other: float(other == task) for other in TASKS})
    before = model.get_layer(layer).get_weights()
    model.train_on_batch(x, y)
    after = model.get_layer(layer).get_weights()
    return np.concatenate([(a - b).ravel() / 0.1 for a, b in zip(before, after, strict=True)])


def weights_of(model, *layers):
    return np.concatenate(
        [w.ravel() for name in layers for w in model.get_layer(name).get_weights()]
    )


def scopes(strategy, replicated):
    return strategy.scope() if replicated else contextlib.nullcontext()


@pytest.mark.parametrize("replicated", [False, True], ids=["one device", "two replicas"])
@pytest.mark.parametrize("scope", ["parameters", "features"])
def test_losses_are_raw_and_those_of_the_global_batch(scope, replicated, strategy):
    balancing = Losses(scope=scope)
    with scopes(strategy, replicated):
        model = build(balancing, loss_weights={"first": 5.0})
    logs = model.evaluate(X, Y, batch_size=ROWS, verbose=0, return_dict=True)
    fit(model)
    expected = [logs["first_loss"], logs["second_loss"]]
    np.testing.assert_allclose(balancing.told, expected, rtol=REORDERED)


def with_uneven_halves():
    """Labels of which the halves of the batch have one and three, and the halves' Gramian."""
    y = {**Y, "second": Y["second"].copy()}
    y["second"][[0, 1, 2, 5]] = np.nan
    halves = [
        [gradients(X[half], {t: v[half] for t, v in y.items()}, task, "trunk") for task in TASKS]
        for half in (slice(None, ROWS // 2), slice(ROWS // 2, None))
    ]
    return y, np.array(halves[0]) @ np.array(halves[1]).T


@pytest.mark.parametrize("replicated", [False, True], ids=["one device", "two replicas"])
@pytest.mark.parametrize("kind", [Cross, Products])
def test_cross_gramian_and_products_are_those_of_the_two_halves(kind, replicated, strategy):
    y, cross = with_uneven_halves()
    balancing = kind()
    with scopes(strategy, replicated):
        model = build(balancing)
    fit(model, y)
    products = cross @ [0.25, 2.0]
    expected = cross.sum(axis=1) if kind is Cross else products - products.mean()
    # Gradients found from a step of 0.1 in float32.
    np.testing.assert_allclose(balancing.told, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("replicated", [False, True], ids=["one device", "two replicas"])
@pytest.mark.parametrize("options", [{}, {"refresh_every": 2}], ids=["each step", "every second"])
@pytest.mark.parametrize("kind", [Cross, Products])
def test_halves_add_up_to_the_step_of_the_whole_batch(kind, options, replicated, strategy):
    with scopes(strategy, replicated):
        models = [build(Recorder(**options)), build(kind(**options))]
    for model in models:
        fit(model, steps=3)
    np.testing.assert_allclose(*(weights_of(m, "trunk", *TASKS) for m in models), rtol=1e-5)


@pytest.mark.parametrize("replicated", [False, True], ids=["one device", "two replicas"])
def test_weights_that_no_gradient_gives_take_one_pass(replicated, strategy, monkeypatch):
    class Blind(Recorder):
        needs_gramian = False

    with scopes(strategy, replicated):
        models = [build(Recorder()), build(Blind())]
    fit(models[0], steps=2)

    def refused(*args):
        raise AssertionError("The gradients of the tasks are taken one by one.")

    monkeypatch.setattr(ParametersPass, "gradients", refused)
    fit(models[1], steps=2)
    np.testing.assert_allclose(*(weights_of(m, "trunk", *TASKS) for m in models), rtol=1e-5)


@pytest.mark.parametrize("replicated", [False, True], ids=["one device", "two replicas"])
@pytest.mark.parametrize("scope", ["parameters", "features"])
def test_a_method_without_need_of_the_gramian_gets_none(scope, replicated, strategy):
    with scopes(strategy, replicated):
        model, plain = build(Unread(scope=scope)), build()
    for one in (model, plain):
        fit(one, steps=2)
    np.testing.assert_allclose(
        *(weights_of(m, "trunk", *TASKS) for m in (model, plain)), rtol=REORDERED
    )


@pytest.mark.parametrize("scope", ["parameters", "features"])
def test_a_gradient_that_is_not_finite_is_seen_without_a_gramian(scope):
    model = build(Unread(scope=scope))
    fit(model, {**Y, "first": np.full_like(Y["first"], np.inf)})
    assert np.isnan(weights_of(model, "trunk")).all()


@pytest.mark.parametrize("scope", ["parameters", "features"])
def test_heads_are_weighted_where_the_method_says_so(scope):
    model, twin = build(Heads(scope=scope)), build(loss_weights={"first": 1.0, "second": 3.0})
    other = build(Recorder(scope=scope))
    for one in (model, twin, other):
        fit(one)
    # Weighted everywhere is a weighted sum of losses; else the heads learn as before.
    np.testing.assert_allclose(
        weights_of(model, "trunk", *TASKS),
        weights_of(twin, "trunk", *TASKS),
        rtol=REORDERED,
        atol=1e-7,
    )
    assert np.abs(weights_of(other, "second") - weights_of(twin, "second")).max() > 1e-3


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_one_task_a_step_takes_turns_and_keeps_the_gradients_of_the_others(jit_compile):
    balancing = InTurn()
    model = build(balancing, jit_compile=jit_compile)
    start = weights_of(model, "second")
    rows = [gradients(X, Y, task, "trunk") for task in TASKS]
    trunk = weights_of(model, "trunk")
    fit(model)
    np.testing.assert_array_equal(weights_of(model, "second"), start)
    np.testing.assert_allclose(weights_of(model, "trunk"), trunk - 0.1 * rows[0], rtol=1e-5)
    fit(model)
    assert np.abs(weights_of(model, "second") - start).max() > 1e-3
    tracked = np.concatenate([np.asarray(part[0]) for part in balancing.tracked], axis=1)
    np.testing.assert_allclose(tracked[0], rows[0], rtol=1e-4, atol=1e-6)
    assert np.abs(tracked[1] - rows[1]).max() > 1e-4  # taken where the first step had led


def test_two_replicas_take_turns_as_one_device_does(strategy):
    models = []
    for replicated in (False, True):
        with scopes(strategy, replicated):
            models.append(build(InTurn()))
        fit(models[-1], steps=3)
    np.testing.assert_allclose(*(weights_of(m, "trunk", *TASKS) for m in models), rtol=1e-5)


def test_a_loss_weighting_that_is_undone_is_warned_of():
    class Undoing(Recorder):
        weights_remark = "their lengths do not count."

    with pytest.warns(UserWarning, match="has scaled: their lengths do not count"):
        build(Undoing(), loss_weighting="uncertainty")
    build(Undoing())  # nothing to undo


@pytest.mark.parametrize(
    ("scope", "replicated"),
    [
        ("parameters", False),
        ("features", True),
        pytest.param("parameters", True, marks=pytest.mark.slow),
        pytest.param("features", False, marks=pytest.mark.slow),
    ],
)
def test_weights_are_found_anew_every_n_steps_and_used_in_all(scope, replicated, strategy):
    balancing, every = Recorder(scope=scope, refresh_every=3), Recorder(scope=scope)
    models = []
    for method in (balancing, every):
        with scopes(strategy, replicated):
            models.append(build(method, optimizer=keras.optimizers.SGD(0.1, global_clipnorm=1.0)))
        fit(models[-1], steps=7)
    np.testing.assert_allclose(*(weights_of(m, "trunk", *TASKS) for m in models), rtol=1e-5)
    assert np.asarray(balancing.count) == 3.0  # in steps 1, 4 and 7
    assert np.asarray(every.count) == 7.0


def test_weights_are_reused_under_a_strategy_of_one_replica():
    with tf.distribute.OneDeviceStrategy("cpu:0").scope():
        model = build(Recorder(refresh_every=2))
    twin = build(Recorder(refresh_every=2))
    for one in (model, twin):
        fit(one, steps=3)
    np.testing.assert_allclose(*(weights_of(m, "trunk", *TASKS) for m in (model, twin)), rtol=1e-6)


def test_a_task_absent_at_the_refresh_keeps_its_last_weight():
    gone = {**Y, "second": np.full_like(Y["second"], np.nan)}
    balancing = Recorder(refresh_every=2)
    model = build(balancing)
    fit(model, gone)
    np.testing.assert_array_equal(balancing.last_weights, [1.0, 1.0])
    fit(model, Y)  # reuses 1 for the second
    fit(model, Y)
    np.testing.assert_array_equal(balancing.last_weights, [1.0, 3.0])
    fit(model, gone)
    fit(model, gone)
    np.testing.assert_array_equal(balancing.last_weights, [1.0, 3.0])


@pytest.mark.parametrize("arguments", [{"jit_compile": True}, {"steps_per_execution": 3}], ids=str)
def test_reused_weights_under_xla_and_several_steps_at_once(arguments):
    models = [build(Heads(refresh_every=2), **given) for given in ({}, arguments)]
    for model in models:
        data = (np.tile(X, (3, 1)), {task: np.tile(part, (3, 1)) for task, part in Y.items()})
        model.fit(*data, batch_size=ROWS, epochs=2, shuffle=False, verbose=0)
    np.testing.assert_allclose(*(weights_of(m, "trunk", *TASKS) for m in models), rtol=1e-5)


def test_an_overflow_at_the_refresh_is_tried_again_in_the_next_step():
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    balancing = Recorder(refresh_every=3)
    model = build(balancing, optimizer=optimizer)
    optimizer.dynamic_scale.assign(3e38)
    fit(model, {task: 100 * part for task, part in Y.items()})
    np.testing.assert_array_equal(balancing.last_weights, [1.0, 1.0])
    optimizer.dynamic_scale.assign(2.0)
    fit(model)
    np.testing.assert_array_equal(balancing.last_weights, [1.0, 3.0])


@pytest.mark.parametrize("value", [0, 2.5])
def test_refresh_every_must_be_a_positive_integer(value):
    with pytest.raises((TypeError, ValueError), match="`refresh_every` must be an integer >= 1"):
        keras_mtl.balancing.MGDA(refresh_every=value)


def test_methods_without_weights_refuse_to_reuse_them():
    with pytest.raises(ValueError, match="`refresh_every` must be 1 for InTurn"):
        InTurn(refresh_every=2)


def test_state_for_each_parameter_refuses_features_and_other_gradients():
    with pytest.raises(ValueError, match="`scope` of InTurn must be 'parameters'"):
        InTurn(scope="features")
    balancing = InTurn()
    balancing([[1.0, 2.0], [3.0, 4.0]])
    with pytest.raises(ValueError, match=r"was built for gradients of the sizes \[2\]"):
        balancing([[1.0], [3.0]])


def test_losses_must_be_given_where_they_are_needed():
    with pytest.raises(ValueError, match=r"`losses` must have shape \(2,\) for Losses"):
        Losses()([[1.0, 2.0], [3.0, 4.0]])


@pytest.mark.filterwarnings("ignore:.*nothing to balance in:UserWarning")
def test_a_layer_called_once_a_task_below_the_features_takes_the_sum_between_searches():
    random = np.random.default_rng(0)
    x = random.normal(size=(8, 4)).astype("float32")
    y = {"a": random.normal(size=(8, 1)), "b": 5 * random.normal(size=(8, 1))}

    def moves(every):
        """How far the layers go in the second step of the same batch, at nearly no rate."""
        keras.utils.set_random_seed(0)
        inputs = keras.Input((4,))
        trunk = keras.layers.Dense(6, "tanh", name="trunk")(inputs)
        both = keras.layers.Dense(5, "tanh", name="both")
        outputs = {t: keras.layers.Dense(1)(both(keras.layers.Dense(5)(trunk))) for t in y}
        model = keras_mtl.MultiTaskModel(inputs, outputs)
        method = keras_mtl.balancing.MGDA(scope="features", refresh_every=every)
        model.compile(keras.optimizers.SGD(1e-3), "mse", gradient_balancing=method)
        model.train_on_batch(x, y)
        layers = [model.get_layer(layer) for layer in ("trunk", "both")]
        before = [layer.kernel.numpy() for layer in layers]
        model.train_on_batch(x, y)
        return [layer.kernel.numpy() - old for layer, old in zip(layers, before, strict=True)]

    for reused, found in zip(moves(3), moves(1), strict=True):
        # The weights of the step before, on losses that have hardly moved.
        np.testing.assert_allclose(reused, found, rtol=0.02, atol=0.02 * np.abs(found).max())


@pytest.mark.parametrize("replicated", [False, True], ids=["one device", "two replicas"])
def test_an_overflow_that_shows_in_the_sum_alone_leaves_no_trace(replicated, strategy):
    balancing = keras_mtl.balancing.Random(refresh_every=3)
    with scopes(strategy, replicated):
        # Times this scale a gradient is infinite.
        optimizer = keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(0.1), initial_scale=2.0**125
        )
        model = build(balancing, optimizer=optimizer)
    states = [variable for variable in balancing.variables if variable.dtype == "float32"]
    scale, *before = map(ops.convert_to_numpy, [optimizer.dynamic_scale, *states])
    fit(model, {task: np.full_like(labels, 1e3) for task, labels in Y.items()})
    smaller, *after = map(ops.convert_to_numpy, [optimizer.dynamic_scale, *states])
    assert smaller < scale
    assert len(before) > 0
    for array, old in zip(after, before, strict=True):
        np.testing.assert_array_equal(array, old)


@pytest.mark.parametrize("replicated", [False, True], ids=["one device", "two replicas"])
def test_an_overflow_that_the_products_do_not_show_leaves_no_trace(
    replicated, strategy, monkeypatch
):
    monkeypatch.setattr(pass_for, "SMALL", 1)  # for which no gradients of halves are kept
    balancing = keras_mtl.balancing.MoDo()
    with scopes(strategy, replicated):
        # The gradient that the tasks have in common on the first half is infinite times this
        # scale. The products take it with what each has less than the mean, which is finite.
        optimizer = keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(0.1), initial_scale=2.0**118
        )
        model = build(balancing, optimizer=optimizer)
    for layer in model.layers[1:]:
        shapes = [variable.shape for variable in layer.weights]
        layer.set_weights([np.full(shape, float(layer.name in TASKS)) for shape in shapes])
    first = (np.arange(ROWS) < ROWS // 2)[:, None]
    x = np.tile(np.where(first, 100.0, 1.0), 3)
    y = {task: np.where(first, top, 0.0) for task, top in zip(TASKS, (1e3, 1001.0), strict=True)}
    before = ops.convert_to_numpy(balancing.task_weights)
    for scale, moves in ((2.0**118, False), (1.0, True)):
        optimizer.dynamic_scale.assign(scale)
        model.train_on_batch(x, y)
        assert bool(ops.any(balancing.task_weights != before)) == moves
        assert bool(optimizer.dynamic_scale < scale) != moves
