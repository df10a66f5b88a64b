"""The implicit hypergradient against closed forms, and on layers of every kind."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import keras_mtl
from keras_mtl.hypergradients import half_batches

ROWS = 12
PENALTY = 0.05
WEIGHTS = np.array([1.0, 0.5])
random = np.random.default_rng(0)
# Two well-conditioned halves: every other row, of orthonormal columns and a little more.
X = np.zeros((ROWS, 3), "float32")
for half in (0, 1):
    basis, _ = np.linalg.qr(random.normal(size=(ROWS // 2, 3)))
    X[half::2] = 1.5 * basis + 0.1 * random.normal(size=(ROWS // 2, 3))
Y = {task: random.normal(size=(ROWS, 1)).astype("float32") for task in ("main", "helper")}
A, B = (
    {"x": np.float64(X[half::2]), **{task: np.float64(y[half::2, 0]) for task, y in Y.items()}}
    for half in (0, 1)
)


@keras.saving.register_keras_serializable(package="tests")
class Implicit(keras_mtl.weighting.LossWeighting):
    """Keeps the implicit hypergradient that it was told, under constant weights."""

    hypergradient = "implicit"

    def __init__(self, name=None, **options):
        super().__init__(name=name)
        self.hypergradient_options = options

    def build(self, input_shape):
        super().build(input_shape)
        self.gradient = self.add_task_variable("gradient")
        self.told = self.add_task_variable("told")

    def call(self, task_losses, active):
        return ops.sum(active * ops.convert_to_tensor(WEIGHTS, dtype="float32") * task_losses)

    def update_from_hypergradient(self, gradient, active):
        self.gradient.assign(gradient)
        self.told.assign_add(active)


def compiled(inputs, features, heads, options, **arguments):
    outputs = {task: head(features) for task, head in heads.items()}
    tasks = {"helper": keras_mtl.Task(auxiliary=True)}
    model = keras_mtl.MultiTaskModel(inputs, outputs, tasks=tasks)
    arguments.setdefault("optimizer", keras.optimizers.SGD(0.1))
    model.compile(loss="mse", loss_weighting=Implicit(**options), **arguments)
    return model


def linear(theta=(0.3, -0.2, 0.5), penalty=0.0, rows=slice(None), arguments=None, **options):
    """Returns what a model with one prediction for both tasks is told at `theta`."""
    inputs = keras.Input((3,), name="x")
    regularizer = keras.regularizers.L2(penalty) if penalty else None
    trunk = layers.Dense(1, use_bias=False, kernel_regularizer=regularizer)
    heads = {task: layers.Activation("linear", name=task) for task in Y}
    model = compiled(inputs, trunk(inputs), heads, options, **(arguments or {}))
    trunk.kernel.assign(np.reshape(theta, (3, 1)))
    model.fit(X, Y, batch_size=ROWS, shuffle=False, verbose=0)
    return np.asarray(model._training_state.loss_weighting.gradient)


def slope(half, task, theta):
    return 2.0 / len(half["x"]) * half["x"].T @ (half["x"] @ theta - half[task])


def hessian(penalty=0.0):
    gramian = A["x"].T @ A["x"]
    return np.sum(WEIGHTS) * 2.0 / len(A["x"]) * gramian + 2.0 * penalty * np.eye(3)


def optimum(weights, penalty=0.0):
    """The minimum of the training loss on half A under other weights."""
    size = len(A["x"])
    curvature = np.sum(weights) * A["x"].T @ A["x"] + size * penalty * np.eye(3)
    return np.linalg.solve(
        curvature, A["x"].T @ sum(w * A[t] for w, t in zip(weights, Y, strict=True))
    )


def main_loss(theta):
    return np.mean((B["x"] @ theta - B["main"]) ** 2)


# Losses of about 1 are known to 1e-7; their difference is divided by 0.02, times |v| and the rate.
MEASURED = 1e-5


@pytest.mark.parametrize(("truncation", "penalty"), [(0, 0.0), (3, PENALTY)])
def test_truncated_series_equals_that_of_linear_algebra(truncation, penalty):
    theta, rate = np.array([0.3, -0.2, 0.5]), 0.4
    contraction = np.eye(3) - rate * hessian(penalty)
    inverse = rate * sum(np.linalg.matrix_power(contraction, j) for j in range(truncation + 1))
    solved = inverse @ slope(B, "main", theta)
    expected = [-solved @ slope(A, task, theta) for task in Y]
    found = linear(theta, penalty, truncation=truncation, rate=rate)
    np.testing.assert_allclose(found, expected, atol=MEASURED)


def test_long_series_at_the_optimum_is_the_derivative_of_retrained_models():
    curvatures = np.linalg.eigvalsh(hessian(PENALTY))
    rate = 2 / (curvatures[0] + curvatures[-1])
    assert np.max(np.abs(1 - rate * curvatures)) ** 11 < MEASURED  # what is cut off
    expected = [
        (main_loss(optimum(WEIGHTS + h, PENALTY)) - main_loss(optimum(WEIGHTS - h, PENALTY))) / 2e-5
        for h in 1e-5 * np.eye(2)
    ]
    found = linear(optimum(WEIGHTS, PENALTY), PENALTY, truncation=10, rate=rate)
    np.testing.assert_allclose(found, expected, atol=2 * MEASURED)


def test_rate_is_by_default_the_learning_rate_of_the_optimizer():
    found = linear(arguments={"optimizer": keras.optimizers.Adam(0.02)})
    np.testing.assert_allclose(found, linear(rate=0.02), rtol=1e-6)


def test_constants_multiply_the_weights_but_not_the_main_loss():
    found = linear(truncation=0, rate=1.0, arguments={"loss_weights": {"main": 3.0, "helper": 0.5}})
    plain = linear(truncation=0, rate=1.0)
    np.testing.assert_allclose(found, plain * [3.0, 0.5], rtol=1e-6)


# By name the shape of one row and the layers; smooth ones, so that finite differences converge.
NETWORKS = {
    "conv": (
        (6, 6, 1),
        lambda: [
            layers.Conv2D(3, 3, activation="gelu"),
            layers.AveragePooling2D(2),
            layers.Flatten(),
        ],
    ),
    "embedding": (
        (5,),
        lambda: [layers.Embedding(9, 4, mask_zero=True), layers.GlobalAveragePooling1D()],
    ),
    "normalized": ((6,), lambda: [layers.Dense(4, "tanh"), layers.BatchNormalization()]),
    "dropped": (
        (6,),
        lambda: [layers.Dense(8, "tanh"), layers.Dropout(0.3), layers.BatchNormalization()],
    ),
}


def network(name, policy="float32", arguments=None, **options):
    """Returns a compiled model of these layers with two heads, and its inputs."""
    keras.utils.set_random_seed(1)
    shape, make = NETWORKS[name]
    keras.config.set_dtype_policy(policy)
    try:
        inputs = features = keras.Input(shape, name="x")
        for layer in make():
            features = layer(features)
        heads = {task: layers.Dense(1, name=task) for task in Y}
        model = compiled(inputs, features, heads, options, **(arguments or {}))
    finally:
        keras.config.set_dtype_policy("float32")
    x = np.random.default_rng(1).normal(size=(ROWS, *shape)).astype("float32")
    return model, np.abs(3 * x).clip(0, 8).round() if name == "embedding" else x


def told(model, x, y=Y):
    model.fit(x, y, batch_size=ROWS, shuffle=False, verbose=0)
    return np.asarray(model._training_state.loss_weighting.gradient).copy()


class Reference:
    """Gradients of the weighted losses on a half, and products with the Hessian, in float64."""

    def __init__(self, name, model, x):
        self.model, self.x = network(name, "float64")[0], np.float64(x)
        self.model.set_weights(model.get_weights())
        self.start = [variable.numpy() for variable in self.model.trainable_variables]

    def gradient(self, half, weights):
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            outputs = self.model(self.x[half::2], training=True)
            errors = [tf.reduce_mean((outputs[task] - Y[task][half::2]) ** 2) for task in Y]
            loss = sum(weight * error for weight, error in zip(weights, errors, strict=True))
        found = tape.gradient(loss, [variable.value for variable in variables])
        zeros = [np.zeros(variable.shape) for variable in variables]
        dense = [
            z if g is None else tf.convert_to_tensor(g) for z, g in zip(zeros, found, strict=True)
        ]
        return np.concatenate([np.ravel(part) for part in dense])

    def product(self, direction, step=1e-5):
        ends = []
        for sign in (step, -step):
            position = 0
            for variable, start in zip(self.model.trainable_variables, self.start, strict=True):
                part = direction[position : position + start.size].reshape(start.shape)
                variable.assign(start + sign * part)
                position += start.size
            ends.append(self.gradient(0, WEIGHTS))
        for variable, start in zip(self.model.trainable_variables, self.start, strict=True):
            variable.assign(start)
        return (ends[0] - ends[1]) / (2 * step)


@pytest.mark.parametrize("name", ["embedding", "normalized"])
def test_series_of_a_network_equals_that_in_double_precision(name):
    rate = 0.1
    model, x = network(name, truncation=2, rate=rate)
    reference = Reference(name, model, x)
    term = total = reference.gradient(1, [1.0, 0.0])
    for _ in range(2):
        term = term - rate * reference.product(term)
        total = total + term
    expected = [-rate * total @ reference.gradient(0, row) for row in np.eye(2)]
    # Differences over a perturbation of length 0.01 have an error of its square beside rounding.
    np.testing.assert_allclose(told(model, x), expected, rtol=2e-3, atol=MEASURED)


def test_sparse_inputs_are_halved_as_dense_ones():
    found, rows = [], ROWS - 1
    x = np.where(np.abs(X) > 0.4, X, 0.0)[:rows]
    y = {task: labels[:rows] for task, labels in Y.items()}
    for given in (x, tf.sparse.from_dense(x)):
        keras.utils.set_random_seed(1)
        inputs = keras.Input((3,), name="x", sparse=given is not x)
        hidden = layers.Dense(4, "tanh")(inputs)
        heads = {task: layers.Dense(1, name=task) for task in Y}
        found.append(told(compiled(inputs, hidden, heads, {"truncation": 1}), given, y))
    assert np.min(np.abs(found[0])) > 1e-3
    np.testing.assert_allclose(*found, rtol=1e-4)


@pytest.mark.parametrize("shape", [(1, 3), (2, 3), (5, 3), (4, 2, 3), (3, 0)])
@pytest.mark.parametrize("start", [0, 1])
def test_every_other_row_of_a_sparse_tensor_is_that_of_a_dense_one(shape, start):
    dense = np.random.default_rng(0).integers(0, 3, shape)

    @tf.function(input_signature=[tf.SparseTensorSpec([None, *shape[1:]], tf.int64)])
    def halved(sparse):
        half = half_batches._every_other_row({"x": sparse, "y": None}, tf.constant(start))
        assert half["x"].shape.as_list() == [None, *shape[1:]]
        return half["x"]

    half = halved(tf.sparse.from_dense(dense))
    np.testing.assert_array_equal(tf.sparse.to_dense(half), dense[start::2])


def test_two_replicas_equal_one_device(strategy):
    found = []
    for scope in (contextlib.nullcontext(), strategy.scope()):
        with scope:
            model, x = network("embedding", truncation=1)
        found.append(told(model, x))
    np.testing.assert_allclose(*found, atol=MEASURED)


def test_float16_agrees_with_float32_to_its_rounding():
    found = []
    for policy in ("float32", "mixed_float16"):
        # Small enough a scale for the first step.
        inner = keras.optimizers.SGD(0.1)
        optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**10)
        model, x = network("conv", policy, arguments={"optimizer": optimizer}, truncation=1)
        found.append(told(model, x))
    # A perturbation of 0.01 changes a number of 11 bits by a few percent of itself, if at all.
    np.testing.assert_allclose(*found, rtol=0.05)


def test_it_leaves_no_trace_in_what_is_trained():
    model, x = network("dropped")
    twin, _ = network("dropped")
    twin._step.before_step = None
    for _ in range(3):
        assert np.any(told(model, x) != 0.0)
        told(twin, x)
    for new, old in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-6, atol=1e-7)
    for new, old in zip(model._list_seed_generators(), twin._list_seed_generators(), strict=True):
        np.testing.assert_array_equal(new.state, old.state)


def test_nothing_is_told_without_a_main_task_nor_of_an_absent_or_overflowing_one():
    model, x = network("normalized")
    told(model, x, {**Y, "main": np.full_like(Y["main"], np.nan)})
    told(model, np.float32(1e30) * x, {task: 1e30 * y for task, y in Y.items()})
    np.testing.assert_array_equal(model._training_state.loss_weighting.told, [0.0, 0.0])
    model, x = network("normalized")
    told(model, x, {**Y, "helper": np.full_like(Y["helper"], np.nan)})
    np.testing.assert_array_equal(model._training_state.loss_weighting.told, [1.0, 0.0])
    told(model, x)
    np.testing.assert_array_equal(model._training_state.loss_weighting.told, [2.0, 1.0])
