import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mtl.balancing import PCGrad

GRADIENTS = np.float32([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
SCALES = [1e-10, 1e-5, 1.0, 1e5, 1e10]


def random_gradients(seed, num_tasks, num_params=6):
    gradients = np.random.default_rng(seed).normal(size=(num_tasks, num_params))
    return gradients - 0.9 * gradients.mean(axis=0)  # conflicting


def drawn_orders(seed, num_tasks):
    """The orders that a new balancing with this seed draws first."""
    balancing = PCGrad(seed=seed)
    balancing.build_for(num_tasks)
    return np.asarray(balancing._draw_orders(num_tasks))


def surgery(gradients, orders):
    """Algorithm 1 of the paper, on the vectors themselves."""
    total = np.zeros_like(gradients[0])
    for own, order in zip(range(len(gradients)), orders, strict=True):
        projected = gradients[own].copy()
        for other in order[order != own]:
            inner = projected @ gradients[other]
            if inner < 0:
                projected -= inner / (gradients[other] @ gradients[other]) * gradients[other]
        total += projected
    return total


def test_direction_and_weights_of_two_tasks_worked_by_hand():
    # g1 . g2 = -22, |g1|^2 = 18, |g2|^2 = 38: g1 + 22/38 g2 and g2 + 22/18 g1.
    weights = np.float64([1 + 22 / 18, 1 + 22 / 38])
    gramian = GRADIENTS @ GRADIENTS.T
    np.testing.assert_allclose(PCGrad().compute_weights(gramian), weights, rtol=1e-6)
    np.testing.assert_allclose(PCGrad()(GRADIENTS), weights @ GRADIENTS, rtol=1e-5)


@pytest.mark.parametrize("num_tasks", [3, 4, 8])
def test_equals_the_algorithm_of_the_paper(num_tasks):
    for seed in range(20):
        gradients = random_gradients(seed, num_tasks)
        expected = surgery(gradients, drawn_orders(seed, num_tasks))
        # Float64: inner products from the Gramian against those of the vectors.
        np.testing.assert_allclose(PCGrad(seed=seed)(gradients), expected, atol=1e-10)


def test_each_task_draws_its_own_order_of_all_others():
    orders = drawn_orders(0, 16)
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(16), (16, 1)))
    assert len({tuple(order) for order in orders}) == 16


def test_every_order_is_drawn_about_equally_often():
    balancing = PCGrad(seed=1)
    balancing.build_for(3)
    draw = tf.function(lambda: balancing._draw_orders(3))
    drawn = np.concatenate([draw() for _ in range(400)])
    counts = np.unique(drawn, axis=0, return_counts=True)[1]
    # 1200 draws of 6 orders: 200 each, with a standard deviation of 13.
    assert len(counts) == 6
    np.testing.assert_allclose(counts, 200, atol=65)


def test_without_conflict_it_is_the_plain_sum():
    gradients = np.abs(random_gradients(2, 5))
    np.testing.assert_array_equal(PCGrad().compute_weights(gradients @ gradients.T), np.ones(5))


def test_two_projected_tasks_are_not_harmed():
    for seed in range(20):
        gradients = random_gradients(seed, 2)
        gains = gradients @ np.asarray(PCGrad()(gradients))
        np.testing.assert_array_less(-1e-10, gains)  # float64 rounding


@pytest.mark.parametrize("absent", [0, 1, 2])
def test_an_absent_task_equals_leaving_it_out(absent):
    gradients = random_gradients(5, 3)
    active = np.arange(3) != absent
    direction = PCGrad()(np.where(active[:, None], gradients, 0), active)
    # Of two tasks the order does not matter, so the draws need not agree.
    np.testing.assert_allclose(direction, PCGrad()(gradients[active]), rtol=1e-10)


def test_an_absent_task_is_not_projected_on_even_if_its_row_is_not_zero():
    balancing = PCGrad()
    balancing.build_for(3)
    gramian = np.float32([[18.0, -22.0, -9.0], [-22.0, 38.0, -9.0], [-9.0, -9.0, 50.0]])
    weights = balancing.solve(gramian, np.float32([1.0, 1.0, 0.0]))
    np.testing.assert_allclose(weights, [1 + 22 / 18, 1 + 22 / 38, 0.0], rtol=1e-6)


def test_no_active_task_gives_no_direction():
    np.testing.assert_array_equal(PCGrad()(GRADIENTS, [0.0, 0.0]), np.zeros(3))


def test_a_permutation_of_two_tasks_permutes_the_weights():
    gramian = GRADIENTS @ GRADIENTS.T
    permuted = PCGrad().compute_weights(gramian[::-1, ::-1])
    np.testing.assert_allclose(permuted[::-1], PCGrad().compute_weights(gramian), rtol=1e-6)


def mean_weights(gramian, num_draws):
    balancing, gramian = PCGrad(seed=4), tf.constant(gramian)
    draw = tf.function(lambda: balancing.compute_weights(gramian))
    return np.mean([draw() for _ in range(num_draws)], axis=0)


def test_a_permutation_of_more_tasks_permutes_the_mean_over_draws():
    gradients, order = random_gradients(11, 4, num_params=3), [2, 0, 3, 1]
    gramian = gradients @ gradients.T
    mean = mean_weights(gramian, 1000)
    permuted = mean_weights(gramian[order][:, order], 1000)
    # Draws deviate by up to 0.12: five standard errors of the difference of two means.
    np.testing.assert_allclose(permuted, mean[order], atol=0.03)


@pytest.mark.parametrize("first", SCALES)
@pytest.mark.parametrize("second", SCALES)
def test_gradients_of_any_two_lengths(first, second):
    scales = np.float32([[first], [second], [1.0]])
    gradients = scales * np.float32([[1.0, -2.0, 0.5], [-0.5, 2.0, 1.0], [-1.0, 0.5, -2.0]])
    direction = np.asarray(PCGrad(seed=0)(gradients))
    expected = surgery(gradients.astype("float64"), drawn_orders(0, 3))
    # Float32 rounding of the longest gradient.
    tolerance = 1e-5 * np.abs(gradients).max()
    np.testing.assert_allclose(direction, expected, atol=tolerance)


@pytest.mark.parametrize(
    ("gradients", "expected"),
    [
        ([[1.0, 2.0], [0.0, 0.0]], [1.0, 2.0]),
        ([[1.0, 2.0], [-2.0, -4.0]], [0.0, 0.0]),
        ([[1.0, 2.0], [1.0, 2.0]], [2.0, 4.0]),
        ([[1.0, 2.0]], [1.0, 2.0]),
        ([[0.0, 0.0], [0.0, 0.0]], [0.0, 0.0]),
    ],
    ids=["zero", "opposite", "duplicate", "one_task", "all_zero"],
)
def test_degenerate_gradients(gradients, expected):
    np.testing.assert_allclose(PCGrad()(gradients), expected, atol=1e-6)


def test_compiled_by_xla_equals_not_compiled(monkeypatch):
    # XLA draws other numbers from the same seed, so the orders are fixed here.
    orders = drawn_orders(5, 4)
    monkeypatch.setattr(PCGrad, "_draw_orders", lambda *_: tf.constant(orders))
    gradients = random_gradients(9, 4)
    compiled = tf.function(PCGrad(), jit_compile=True)
    np.testing.assert_allclose(compiled(gradients), surgery(gradients, orders), rtol=1e-8)


def test_compiled_by_xla_draws_orders():
    balancing = PCGrad(seed=5)
    balancing.build_for(16)
    compiled = tf.function(lambda: balancing._draw_orders(16), jit_compile=True)
    first, second = compiled().numpy(), compiled().numpy()
    np.testing.assert_array_equal(np.sort(first, axis=1), np.tile(np.arange(16), (16, 1)))
    assert (first != second).any()


def test_the_seed_is_in_the_config_and_fixes_the_orders():
    gradients = random_gradients(0, 5)
    balancing = PCGrad(scope="features", seed=7)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(balancing))
    assert (copy.scope, copy.seed) == ("features", 7)
    first, second = balancing(gradients), balancing(gradients)
    np.testing.assert_array_equal(copy(gradients), first)
    assert not np.allclose(first, second)


@pytest.mark.parametrize(
    ("seed", "error"), [(0.5, TypeError), ("1", TypeError), (True, TypeError), (2**63, ValueError)]
)
def test_another_seed_than_an_integer_is_refused_when_the_object_is_made(seed, error):
    with pytest.raises(error, match=r"`seed` must be None or an integer .*, received"):
        PCGrad(seed=seed)


def test_a_numpy_integer_is_a_seed_like_another():
    gradients = random_gradients(0, 5)
    seeded = PCGrad(seed=np.int64(7))
    assert type(seeded.get_config()["seed"]) is int
    np.testing.assert_array_equal(seeded(gradients), PCGrad(seed=7)(gradients))


def test_replicas_draw_what_one_device_draws(strategy):
    gradients = np.float32(random_gradients(0, 5))
    gramian = tf.constant(gradients @ gradients.T)
    single = PCGrad(seed=3)
    with strategy.scope():
        balancing = PCGrad(seed=3)
        balancing.build_for(5)
    step = tf.function(lambda: strategy.run(lambda: balancing.compute_weights(gramian)))
    steps = [[value.numpy() for value in step().values] for _ in range(4)]
    for first, second in steps:
        np.testing.assert_array_equal(first, second)
        np.testing.assert_allclose(first, single.compute_weights(gramian), rtol=1e-5)
    assert len({tuple(first) for first, _ in steps}) == 4
