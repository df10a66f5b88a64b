import numpy as np
import pytest

from keras_mtl.balancing import MGDA, CAGrad

GRADIENTS = np.float32([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
SCALES = [1e-10, 1e-5, 1.0, 1e5, 1e10]

# Gradients of conflicting tasks and the direction for c = 0.5, from an independent solver.
FOUR = np.float64(
    [
        [-0.253159661, 0.6393599159, -2.0830681411, 0.2158045961, 1.2248275402, -0.1072739055],
        [0.1543355355, -0.3871399433, 2.0290722208, -0.0453860299, -1.4506786991, -0.4052278554],
        [-2.288315102, 1.0493965493, -0.4164743185, -0.7425535252, 1.0724701316, -1.6510755894],
        [0.5354293563, -2.0644148031, -0.6621593397, -1.2042198456, 1.4619756272, 1.7661608779],
    ]
)
FOUR_DIRECTION = np.float64(
    [-0.43481173847, -0.26122591944, 0.08648427727, -0.45235679915, 0.31287451804, -0.17317559201]
)


def random_gradients(seed, num_tasks, num_params=6):
    gradients = np.random.default_rng(seed).normal(size=(num_tasks, num_params))
    return gradients - 0.9 * gradients.mean(axis=0)  # conflicting


def test_direction_worked_by_hand():
    # g_0 = (1, 1, 1) opposes g_1, whose gain is smallest all the way to the edge of the ball:
    # d = g_0 + 0.5 |g_0| g_1 / |g_1|.
    expected = 1 + 0.5 * (3 / 18) ** 0.5 * GRADIENTS[0]
    np.testing.assert_allclose(CAGrad()(GRADIENTS), expected, rtol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-8)])
def test_golden_direction_of_four_conflicting_gradients(dtype, tolerance):
    direction = CAGrad()(FOUR.astype(dtype))
    np.testing.assert_allclose(direction, FOUR_DIRECTION, atol=tolerance)


@pytest.mark.parametrize("c", [0.2, 0.5, 0.9])
def test_no_direction_in_the_ball_has_a_greater_least_gain(c):
    gradients = random_gradients(0, 4)
    mean, direction = gradients.mean(axis=0), np.asarray(CAGrad(c)(gradients))
    radius = c * np.linalg.norm(mean)
    steps = (direction - mean) / radius + 0.2 * np.random.default_rng(1).normal(size=(2000, 6))
    others = mean + radius * steps / np.linalg.norm(steps, axis=1, keepdims=True)
    assert (others @ gradients.T).min(axis=1).max() <= (gradients @ direction).min()
    np.testing.assert_allclose(np.linalg.norm(direction - mean), radius, rtol=1e-9)


@pytest.mark.parametrize("rescale", [None, "1+c^2", "1+c"])
def test_c_0_is_the_mean(rescale):
    gradients = random_gradients(2, 5)
    direction = CAGrad(c=0.0, rescale=rescale)(gradients)
    np.testing.assert_allclose(direction, gradients.mean(axis=0), rtol=1e-12)


def test_for_a_large_c_it_points_along_the_shortest_combination():
    gradients = random_gradients(3, 3) + 1.0
    direction, shortest = (np.asarray(method(gradients)) for method in (CAGrad(1e5), MGDA()))
    unit = [vector / np.linalg.norm(vector) for vector in (direction, shortest)]
    np.testing.assert_allclose(*unit, atol=1e-4)  # the mean is 1e-5 of it


@pytest.mark.parametrize("c", [0.1, 0.5, 0.99])
def test_with_c_below_1_it_descends_the_mean_loss(c):
    for seed in range(5):
        gradients = random_gradients(seed, 5, num_params=2)
        mean, direction = gradients.mean(axis=0), np.asarray(CAGrad(c)(gradients))
        assert direction @ mean >= (1 - c) * (mean @ mean) * (1 - 1e-9)


@pytest.mark.parametrize(("rescale", "divisor"), [("1+c^2", 1.25), ("1+c", 1.5)])
def test_rescales_as_the_authors(rescale, divisor):
    direction = np.asarray(CAGrad(rescale=rescale)(FOUR))
    np.testing.assert_allclose(direction, FOUR_DIRECTION / divisor, atol=1e-8)


@pytest.mark.parametrize("scale", SCALES)
def test_direction_is_scale_equivariant(scale):
    gradients = np.float32(random_gradients(3, 4))
    expected = scale * np.asarray(CAGrad()(gradients), "float64")
    # Float32 rounding of the Gramian.
    tolerance = 2e-5 * np.linalg.norm(expected)
    np.testing.assert_allclose(CAGrad()(np.float32(scale) * gradients), expected, atol=tolerance)


@pytest.mark.parametrize("first", SCALES)
@pytest.mark.parametrize("second", SCALES)
def test_gradients_of_any_two_lengths(first, second):
    gradients = np.float32([[1.0, -2.0, 0.5], [-0.5, 2.0, 1.0]]) * np.float32([[first], [second]])
    direction = np.asarray(CAGrad()(gradients), "float64")
    mean = gradients.astype("float64").mean(axis=0)
    distance = np.linalg.norm(direction - mean) / np.linalg.norm(mean)
    assert distance == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize(
    ("gradients", "expected"),
    [
        ([[3.0, 4.0], [0.0, 0.0]], [4.5, 6.0]),  # the zero gradient is left out of the mean too
        ([[3.0, 4.0], [-3.0, -4.0]], [0.0, 0.0]),
        ([[3.0, 4.0], [3.0, 4.0]], [4.5, 6.0]),
        ([[3.0, 4.0]], [4.5, 6.0]),
        ([[1.0], [2.0], [3.0]], [3.0]),
        ([[0.0, 0.0], [0.0, 0.0]], [0.0, 0.0]),
    ],
    ids=["zero", "opposite", "duplicate", "one_task", "one_parameter", "all_zero"],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_degenerate_gradients(gradients, expected, dtype):
    direction = CAGrad()(np.array(gradients, dtype))
    np.testing.assert_allclose(direction, expected, atol=1e-6)


def test_of_opposite_gradients_the_longer_one_is_followed_less():
    # g_0 = -g/2; the least gain is that of g, and grows along g: d = -g/2 + g/4.
    direction = CAGrad()([[3.0, 4.0], [-6.0, -8.0]])
    np.testing.assert_allclose(direction, [-0.75, -1.0], rtol=1e-6)


@pytest.mark.parametrize("absent", [0, 1, 2])
def test_an_absent_task_equals_leaving_it_out(absent):
    gradients = random_gradients(5, 3)
    active = np.arange(3) != absent
    direction = CAGrad()(np.where(active[:, None], gradients, 0), active)
    np.testing.assert_allclose(direction, CAGrad()(gradients[active]), rtol=1e-8)


def test_no_active_task_gives_no_direction():
    np.testing.assert_array_equal(CAGrad()(GRADIENTS, [0.0, 0.0]), np.zeros(3))


def test_a_permutation_of_tasks_permutes_the_weights():
    gradients, order = random_gradients(7, 5), [3, 0, 4, 1, 2]
    gramian = gradients @ gradients.T
    weights = CAGrad().compute_weights(gramian).numpy()
    permuted = CAGrad().compute_weights(gramian[order][:, order])
    np.testing.assert_allclose(permuted, weights[order], atol=1e-9)


@pytest.mark.parametrize(
    ("c", "error"), [(-0.1, ValueError), (float("nan"), ValueError), ("0.5", TypeError)]
)
def test_a_c_out_of_range_is_refused(c, error):
    with pytest.raises(error, match=r"`c` must be a finite number >= 0.0 and .*, received"):
        CAGrad(c)


def test_an_unknown_rescale_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"`rescale` must be one of \[None, '1\+c\^2', '1\+c'\]"):
        CAGrad(rescale="1+c2")
