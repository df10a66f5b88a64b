import functools

import numpy as np
import pytest
import tensorflow as tf

from keras_mtl.core import bargaining

OTHER_EXPONENTS = [0.1, 0.5, 2.0, 10.0]


def weights_of(gramian, exponent=1.0, powers=None):
    powers = np.ones(len(gramian), "float32") if powers is None else powers
    return bargaining.bargaining_weights(gramian, powers, exponent).numpy()


def all_weights(gradients, exponent, powers=None):
    """The weights for several matrices of one shape, in one program."""
    gramians = np.stack([rows @ rows.T for rows in gradients])
    powers = np.ones(gramians.shape[1]) if powers is None else powers

    @tf.function
    def solve(stack):
        return tf.map_fn(lambda g: bargaining.bargaining_weights(g, powers, exponent), stack)

    return gramians, solve(tf.constant(gramians)).numpy()


def kinds(random, num_tasks):
    """Gradients of all kinds for which the condition has a solution."""
    plain = random.normal(size=(num_tasks, 2 * num_tasks))
    conflicting = plain - 0.9 * plain.mean(axis=0)
    low_rank = np.abs(random.normal(size=(num_tasks, 2))) @ random.uniform(size=(2, 5))
    duplicate = plain.copy()
    duplicate[-1] = 2 * duplicate[0]
    scales = conflicting * 10.0 ** random.uniform(-3, 3, size=(num_tasks, 1))
    return [plain, conflicting, low_rank, duplicate, scales]


def missed(gramian, weights, exponent, powers=1.0):
    """By how much G w = p w^(-q) is missed, relative to the terms that are summed."""
    gramian, weights = gramian.astype("float64"), weights.astype("float64")
    demand = powers * weights**-exponent
    return np.max(np.abs(gramian @ weights - demand) / (np.abs(gramian) @ weights + demand))


@pytest.mark.parametrize(
    ("gramian", "exponent", "expected"),
    [
        ([[4.0]], 1.0, [0.5]),
        ([[9.0, 0.0], [0.0, 0.25]], 1.0, [1 / 3, 2.0]),
        ([[8.0, 0.0], [0.0, 0.125]], 0.5, [0.25, 4.0]),
        ([[2.0, 2.0], [2.0, 2.0]], 1.0, [0.5, 0.5]),
        ([[1.0, -0.5], [-0.5, 1.0]], 1.0, [2**0.5, 2**0.5]),
        ([[1.0, -0.5], [-0.5, 1.0]], 3.0, [2**0.25, 2**0.25]),
    ],
)
def test_weights_worked_by_hand(gramian, exponent, expected):
    np.testing.assert_allclose(weights_of(np.array(gramian), exponent), expected, rtol=1e-12)


# Of the condition with cancelling terms, float32 knows no more than the rounding of the Gramian,
# which the exponent multiplies.
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-12)])
@pytest.mark.parametrize(
    ("num_tasks", "exponent"), [(2, 1.0), (8, 1.0), (32, 1.0), *((5, q) for q in OTHER_EXPONENTS)]
)
def test_condition_holds(num_tasks, exponent, dtype, tolerance):
    random = np.random.default_rng(num_tasks)
    gradients = [rows.astype(dtype) for _ in range(5) for rows in kinds(random, num_tasks)]
    gramians, weights = all_weights(gradients, exponent)
    assert weights.dtype == dtype
    assert (weights > 0).all()
    for pair in zip(gramians, weights, strict=True):
        assert missed(*pair, exponent) < tolerance


def test_condition_holds_with_unequal_powers():
    powers = 10.0 ** np.random.default_rng(1).uniform(-4, 2, size=8)
    for pair in zip(*all_weights(kinds(np.random.default_rng(0), 8), 1.0, powers), strict=True):
        assert missed(*pair, 1.0, powers) < 1e-12


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_lengths_over_twenty_orders_of_magnitude(exponent):
    random = np.random.default_rng(2)
    scales = 10.0 ** random.uniform(-10, 10, size=(20, 6, 1))
    gradients = random.normal(size=(20, 6, 40)) * scales
    for pair in zip(*all_weights(gradients, exponent), strict=True):
        assert missed(*pair, exponent) < 1e-10


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("exponent", [0.5, 1.0, 10.0])
def test_without_a_solution_weights_are_finite_and_cancel(exponent, dtype):
    angles = np.float64([0.0, 2.0, 4.0, 4.5])
    around = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    lengths = [[1, 1, 1, 1], [1, 3, 0.5, 1], [1, 1e3, 1, 1e-3]]
    opposite = np.random.default_rng(3).normal(size=2) * [[1.0], [-1.0], [-7.0], [0.0]]
    gradients = [opposite, *(np.array(length)[:, None] * around for length in lengths)]
    gradients = np.array(gradients, dtype)
    _, weights = all_weights(gradients, exponent)
    assert np.isfinite(weights).all()
    pieces = weights[:, :, None].astype("float64") * gradients
    sums = np.linalg.norm(pieces.sum(axis=1), axis=1)
    np.testing.assert_array_less(sums, 1e-5 * np.linalg.norm(pieces, axis=2).sum(axis=1))


@pytest.mark.parametrize("left_out", [0, 1, 2])
def test_a_task_without_power_or_gradient_equals_leaving_it_out(left_out):
    gradients = np.random.default_rng(4).normal(size=(3, 5))
    kept = np.arange(3) != left_out
    expected = weights_of(gradients[kept] @ gradients[kept].T)
    without_power = weights_of(gradients @ gradients.T, 1.0, kept.astype("float64"))
    zero = np.where(kept[:, None], gradients, 0)
    for weights in (without_power, weights_of(zero @ zero.T)):
        np.testing.assert_allclose(weights[kept], expected, rtol=1e-12)
        assert weights[left_out] == 0


def test_nobody_left():
    np.testing.assert_array_equal(weights_of(np.zeros((3, 3))), np.zeros(3))


def test_compiled_by_xla_equals_not_compiled():
    gradients = np.random.default_rng(5).normal(size=(6, 4)) + 1
    compiled = tf.function(
        functools.partial(bargaining.bargaining_weights, exponent=0.5), jit_compile=True
    )
    gramian = gradients @ gradients.T
    weights = compiled(tf.constant(gramian), tf.ones(6))
    np.testing.assert_allclose(weights, weights_of(gramian, 0.5), rtol=1e-9)
