import functools

import numpy as np
import pytest
import tensorflow as tf

from keras_mtl.core import conflict_averse


def all_weights(gradients, radius):
    """The weights for several matrices of one shape, in one program."""
    gramians = np.stack([rows @ rows.T for rows in gradients])
    active = np.ones(gramians.shape[1])

    @tf.function
    def solve(stack):
        find = conflict_averse.conflict_averse_weights
        return tf.map_fn(lambda gramian: find(gramian, active, radius), stack)

    return solve(tf.constant(gramians)).numpy()


def kinds(random, num_tasks):
    """Gradients of all kinds of which no convex combination is 0."""
    plain = random.normal(size=(num_tasks, 2 * num_tasks))
    conflicting = plain - 0.9 * plain.mean(axis=0)
    low_rank = np.abs(random.normal(size=(num_tasks, 2))) @ random.uniform(size=(2, 2 * num_tasks))
    duplicate = plain.copy()
    duplicate[-1] = 2 * duplicate[0]
    scales = plain * 10.0 ** random.uniform(-2, 2, size=(num_tasks, 1))
    return [plain, conflicting, low_rank, duplicate, scales]


def missed(gradients, weights, radius):
    """By how much the optimality conditions are missed, relative to what is multiplied.

    The least gain of any d in the ball is at most (u . (G g_0) + r |u G|) / sum(u) for u >= 0, so
    a d in the ball that reaches it is best.
    """
    gradients, weights = gradients.astype("float64"), weights.astype("float64")
    mean, direction = gradients.mean(axis=0), weights @ gradients
    ball = radius * np.linalg.norm(mean)
    added = weights - 1 / len(weights)
    assert (added >= -1e-6 * np.abs(weights)).all()
    added = np.maximum(added, 0)
    bound = added @ gradients @ mean + ball * np.linalg.norm(added @ gradients)
    gap = bound - added.sum() * (gradients @ direction).min()
    outside = np.linalg.norm(direction - mean) / ball - 1
    return max(gap / np.linalg.norm(mean) / np.linalg.norm(direction), abs(outside))


# float32: the Gramian is rounded to 6e-8, and conflict cancels up to 99 % of it.
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-4), ("float64", 1e-9)])
@pytest.mark.parametrize(
    ("num_tasks", "radius"), [(2, 0.5), (3, 0.1), (3, 0.9), (5, 2.0), (8, 0.5), (32, 0.5)]
)
def test_optimality_conditions_hold(num_tasks, radius, dtype, tolerance):
    random = np.random.default_rng(num_tasks)
    gradients = [rows.astype(dtype) for _ in range(6) for rows in kinds(random, num_tasks)]
    weights = all_weights(gradients, radius)
    assert weights.dtype == dtype
    for rows, found in zip(gradients, weights, strict=True):
        assert missed(rows, found, radius) < tolerance


@pytest.mark.parametrize("radius", [0.5, 0.95])
def test_more_tasks_than_parameters_oppose_each_other_in_every_direction(radius):
    # Convex combinations reach 0, so that even the best least gain is negative; float64.
    gradients = np.random.default_rng(3).normal(size=(12, 9, 2))
    for rows, found in zip(gradients, all_weights(gradients, radius), strict=True):
        assert missed(rows, found, radius) < 1e-8


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("radius", [0.5, 1.0, 3.0])
def test_lengths_over_twenty_orders_of_magnitude_are_finite_and_in_the_ball(radius, dtype):
    random = np.random.default_rng(4)
    scales = 10.0 ** random.uniform(-10, 10, size=(20, 6, 1))
    gradients = (random.normal(size=(20, 6, 40)) * scales).astype(dtype)
    weights = all_weights(gradients, radius)
    assert np.isfinite(weights).all()
    for rows, found in zip(gradients.astype("float64"), weights.astype("float64"), strict=True):
        mean = rows.mean(axis=0)
        distance = np.linalg.norm(found @ rows - mean) / np.linalg.norm(mean)
        assert distance < radius * (1 + 1e-5)


def test_where_many_directions_are_best_it_is_the_nearest_to_the_mean():
    # g_1 and g_2 are opposite, so no gain is above 0; the mean along g_3 harms neither.
    gradients = np.float64([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    weights = all_weights([gradients], 0.5)[0]
    np.testing.assert_allclose(weights @ gradients, gradients.mean(axis=0), atol=1e-12)


def test_where_many_directions_are_best_it_opposes_nobody():
    # The mean, (0, 1/3, 0.1), has a part along -g_4, which goes; g_1 and g_2 allow no more than 0.
    gradients = np.float64(
        [[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, -0.6, 0.4], [0.0, 0.0, 0.1]]
    )
    mean = gradients.mean(axis=0)
    harmed = gradients[3]
    expected = mean - min(mean @ harmed, 0) / (harmed @ harmed) * harmed
    weights = all_weights([gradients], 0.9)[0]
    np.testing.assert_allclose(weights @ gradients, expected, atol=1e-10)
    assert mean @ harmed < 0


@pytest.mark.parametrize("left_out", [0, 1, 2])
def test_an_absent_task_or_a_zero_gradient_equals_leaving_it_out(left_out):
    gradients = np.random.default_rng(5).normal(size=(3, 5))
    kept = np.arange(3) != left_out
    expected = all_weights([gradients[kept]], 0.5)[0]
    zero = np.where(kept[:, None], gradients, 0)
    find = conflict_averse.conflict_averse_weights
    absent = find(gradients @ gradients.T, kept, 0.5).numpy()
    for weights in (absent, find(zero @ zero.T, np.ones(3), 0.5).numpy()):
        np.testing.assert_allclose(weights[kept], expected, rtol=1e-10)
        assert weights[left_out] == 0


def test_compiled_by_xla_equals_not_compiled():
    gradients = np.random.default_rng(6).normal(size=(5, 12))
    gradients -= 0.8 * gradients.mean(axis=0)
    find = functools.partial(conflict_averse.conflict_averse_weights, radius=0.5)
    compiled = tf.function(find, jit_compile=True)
    weights = compiled(tf.constant(gradients @ gradients.T), tf.ones(5))
    np.testing.assert_allclose(weights, all_weights([gradients], 0.5)[0], rtol=1e-9)
