import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mtl.balancing import GradVac, PCGrad

SCALES = [1e-10, 1e-5, 1.0, 1e5, 1e10]


def random_gradients(seed, num_tasks, num_params=6):
    gradients = np.random.default_rng(seed).normal(size=(num_tasks, num_params))
    return gradients - 0.9 * gradients.mean(axis=0)  # conflicting


def drawn_orders(seed, num_tasks):
    """The orders that a new balancing with this seed draws first."""
    balancing = GradVac(seed=seed)
    balancing.build_for(num_tasks)
    return np.asarray(balancing._draw_orders(num_tasks))


def vaccine(gradients, orders, targets, beta):
    """Algorithm 1 of the paper, on the vectors themselves; changes the targets."""
    total = np.zeros_like(gradients[0])
    for own, order in zip(range(len(gradients)), orders, strict=True):
        turned = gradients[own].copy()
        for other in order[order != own]:
            lengths = np.linalg.norm(turned), np.linalg.norm(gradients[other])
            cosine, target = turned @ gradients[other] / np.prod(lengths), targets[own, other]
            if cosine < target:
                sines = np.sqrt(1 - cosine**2), np.sqrt(1 - target**2)
                share = (target * sines[0] - cosine * sines[1]) / sines[1]
                turned += lengths[0] / lengths[1] * share * gradients[other]
            targets[own, other] = (1 - beta) * target + beta * cosine
        total += turned
    return total


def test_two_steps_worked_by_hand():
    balancing = GradVac()
    # A cosine of 0.6 is above the target 0: the plain sum, and the targets become 0.3.
    np.testing.assert_allclose(balancing([[1.0, 0.0], [0.6, 0.8]]), [1.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(balancing.targets, [[0, 0.3], [0.3, 0]], rtol=1e-6)
    # (1, 0) and (0, 1) are each turned to a cosine of 0.3: (1, t) and (t, 1).
    turned = 1 + 0.3 / np.sqrt(1 - 0.09)
    np.testing.assert_allclose(balancing([[1.0, 0.0], [0.0, 1.0]]), [turned, turned], rtol=1e-6)
    np.testing.assert_allclose(balancing.targets, [[0, 0.15], [0.15, 0]], rtol=1e-6)


@pytest.mark.parametrize("num_tasks", [2, 3, 8])
def test_equals_the_algorithm_of_the_paper(num_tasks):
    for seed in range(5):
        balancing, targets = GradVac(beta=0.3, seed=seed), np.zeros((num_tasks, num_tasks))
        orders = PCGrad(seed=seed)
        orders.build_for(num_tasks)
        for step in range(3):
            gradients = random_gradients(10 * seed + step, num_tasks) + 0.5
            drawn = np.asarray(orders._draw_orders(num_tasks))
            expected = vaccine(gradients, drawn, targets, 0.3)
            # The targets are kept in float32.
            np.testing.assert_allclose(balancing(gradients), expected, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(balancing.targets, targets, atol=1e-6)


def test_two_gradients_come_to_the_target():
    gradients = random_gradients(1, 2)
    balancing = GradVac(beta=0.0)
    balancing.build_for(2)
    balancing.targets.assign([[0.0, 0.7], [0.0, 0.0]])
    weights = balancing.compute_weights(gradients @ gradients.T).numpy()
    # Of the second gradient, what the target 0 adds of the first is known from pcgrad.
    pcgrad = PCGrad().compute_weights(gradients @ gradients.T).numpy()
    turned = gradients[0] + (weights[1] - 1) * gradients[1]
    assert weights[0] == pytest.approx(pcgrad[0])
    cosine = turned @ gradients[1] / np.linalg.norm(turned) / np.linalg.norm(gradients[1])
    assert cosine == pytest.approx(0.7, rel=1e-6)


@pytest.mark.parametrize("num_tasks", [2, 3, 8])
def test_without_a_moving_target_it_is_pcgrad(num_tasks):
    for seed in range(5):
        gradients = random_gradients(seed, num_tasks)
        expected = PCGrad(seed=seed)(gradients)
        np.testing.assert_allclose(GradVac(beta=0.0, seed=seed)(gradients), expected, atol=1e-10)


def test_targets_of_pairs_with_an_absent_task_do_not_move():
    balancing = GradVac()
    balancing(random_gradients(2, 3) + 1)
    before = balancing.targets.numpy()
    balancing(random_gradients(3, 3), [1.0, 0.0, 1.0])
    moved = balancing.targets.numpy() != before
    np.testing.assert_array_equal(moved, [[0, 0, 1], [0, 0, 0], [1, 0, 0]])


def test_duplicates_for_ever_leave_the_weights_bounded():
    balancing = GradVac()
    for _ in range(40):
        balancing([[1.0, 2.0], [1.0, 2.0]])
    # The target is 1; tan of the angle whose cosine is 0.999 is 22.3.
    weights = balancing.compute_weights([[1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(weights, 1 + 0.999 / np.sqrt(1 - 0.999**2), rtol=1e-5)


@pytest.mark.parametrize("absent", [0, 1, 2])
def test_an_absent_task_equals_leaving_it_out(absent):
    gradients = random_gradients(5, 3)
    active = np.arange(3) != absent
    # Of two tasks each has one order.
    np.testing.assert_allclose(
        GradVac()(gradients, active), GradVac()(gradients[active]), rtol=1e-8
    )


def test_no_active_task_gives_no_direction():
    np.testing.assert_array_equal(GradVac()([[1.0], [2.0]], [0.0, 0.0]), [0.0])


def test_a_permutation_of_two_tasks_permutes_the_weights():
    gradients = random_gradients(6, 2)
    gramian = gradients @ gradients.T
    plain, permuted = GradVac(), GradVac()
    for scale in (1.0, 0.5):
        weights = plain.compute_weights(scale * gramian + 1).numpy()
        other = permuted.compute_weights(scale * gramian[::-1, ::-1] + 1)
        np.testing.assert_allclose(other, weights[::-1], rtol=1e-9)


@pytest.mark.parametrize("first", SCALES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_of_any_lengths(first, dtype):
    gradients = random_gradients(8, 3) * [[first], [1.0], [1e10]]
    expected = vaccine(gradients, drawn_orders(0, 3), np.zeros((3, 3)), 0.5)
    direction = GradVac(seed=0)(gradients.astype(dtype))
    # Float32 rounding of the longest gradient.
    np.testing.assert_allclose(direction, expected, atol=1e-5 * np.abs(gradients).max())


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
    balancing = GradVac()
    for _ in range(3):
        np.testing.assert_allclose(balancing(gradients), expected, atol=1e-5)
    assert np.isfinite(balancing.targets).all()


def test_compiled_by_xla_equals_not_compiled():
    # Of two tasks each has one order, whatever XLA draws.
    gradients = tf.constant(random_gradients(9, 2))
    plain, compiled = GradVac(), GradVac()
    compiled.build_for(2)
    step = tf.function(compiled, jit_compile=True)
    for _ in range(2):
        np.testing.assert_allclose(step(gradients), plain(gradients), rtol=1e-8)
    np.testing.assert_allclose(compiled.targets, plain.targets, rtol=1e-6)


def test_options_are_in_the_config():
    balancing = GradVac(beta=0.25, seed=7, scope="features", refresh_every=2)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(balancing))
    assert (copy.beta, copy.seed, copy.scope, copy.refresh_every) == (0.25, 7, "features", 2)


def test_options_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"`beta` must be a finite number >= 0.0 and <= 1.0"):
        GradVac(beta=1.5)
    with pytest.raises(TypeError, match=r"`seed` must be None or an integer"):
        GradVac(seed=0.5)
