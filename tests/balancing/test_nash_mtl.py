import numpy as np
import pytest

from keras_mtl.balancing import NashMTL
from keras_mtl.core.roles import TaskRole

SCALES = [1e-10, 1e-5, 1.0, 1e5, 1e10]

# Gradients of conflicting tasks and the direction with G w = 1 / w, from an independent solver.
FOUR = np.float64(
    [
        [-0.253159661, 0.6393599159, -2.0830681411, 0.2158045961, 1.2248275402, -0.1072739055],
        [0.1543355355, -0.3871399433, 2.0290722208, -0.0453860299, -1.4506786991, -0.4052278554],
        [-2.288315102, 1.0493965493, -0.4164743185, -0.7425535252, 1.0724701316, -1.6510755894],
        [0.5354293563, -2.0644148031, -0.6621593397, -1.2042198456, 1.4619756272, 1.7661608779],
    ]
)
FOUR_DIRECTION = np.float64(
    [-0.51237062919, -1.03846968445, -0.25456457688, -0.80055930301, 0.16716632976, -1.38759293367]
)


def random_gradients(seed, num_tasks, num_params=6):
    gradients = np.random.default_rng(seed).normal(size=(num_tasks, num_params))
    return gradients - 0.9 * gradients.mean(axis=0)  # conflicting


def test_weights_of_two_tasks_worked_by_hand():
    # G = [[9, -3], [-3, 4]]: with w = (a, b), 9a - 3b = 1/a and 4b - 3a = 1/b give 3a = 2b,
    # then 9a^2 - 4.5a^2 = 1.
    gradients = np.float64([[3.0, 0.0], [-1.0, 3**0.5]])
    first = (1 / 4.5) ** 0.5
    weights = NashMTL(max_norm=None).compute_weights(gradients @ gradients.T)
    np.testing.assert_allclose(weights, [first, 1.5 * first], rtol=1e-12)


# The rows are given to ten digits, and the weights, up to 6, multiply what is left out.
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-8)])
def test_golden_direction_of_four_conflicting_gradients(dtype, tolerance):
    direction = NashMTL(max_norm=None)(FOUR.astype(dtype))
    np.testing.assert_allclose(direction, FOUR_DIRECTION, atol=tolerance)


@pytest.mark.parametrize("num_tasks", [2, 5, 32])
def test_every_task_gains_the_same_relatively(num_tasks):
    gradients = random_gradients(0, num_tasks, 2 * num_tasks)
    balancing = NashMTL(max_norm=None)
    weights = balancing.compute_weights(gradients @ gradients.T).numpy()
    gains = gradients @ balancing(gradients).numpy()
    np.testing.assert_allclose(weights * gains, 1, rtol=1e-8)  # G w = 1 / w
    assert (gains > 0).all()


def test_direction_maximises_the_product_of_gains():
    gradients = random_gradients(1, 3)
    direction = np.asarray(NashMTL(max_norm=1.0)(gradients))
    others = direction + 0.1 * np.random.default_rng(2).normal(size=(2000, 6))
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    gains = np.maximum(others @ gradients.T, 1e-300)
    assert np.log(gains).sum(axis=1).max() <= np.log(gradients @ direction).sum()


@pytest.mark.parametrize("num_tasks", [1, 2, 5])
def test_without_clipping_the_length_is_the_root_of_the_number_of_tasks(num_tasks):
    direction = NashMTL(max_norm=None)(random_gradients(3, num_tasks) + 0.1)
    np.testing.assert_allclose(np.linalg.norm(direction), num_tasks**0.5, rtol=1e-10)


@pytest.mark.parametrize(("max_norm", "length"), [(1.0, 1.0), (0.1, 0.1), (5.0, 2.0), (1e6, 2.0)])
def test_a_direction_longer_than_max_norm_is_scaled_down_to_it(max_norm, length):
    gradients = random_gradients(4, 4)
    clipped = np.asarray(NashMTL(max_norm=max_norm)(gradients))
    free = np.asarray(NashMTL(max_norm=None)(gradients))  # of length 2
    np.testing.assert_allclose(clipped, free * length / 2, rtol=1e-9)


def test_factors_of_the_losses_do_not_change_the_direction():
    gradients, factors = random_gradients(5, 4), np.float64([[1e-3], [0.5], [7.0], [1e4]])
    np.testing.assert_allclose(NashMTL()(factors * gradients), NashMTL()(gradients), rtol=1e-8)


@pytest.mark.parametrize("scale", SCALES)
def test_direction_does_not_depend_on_a_common_scale(scale):
    gradients = np.float32(random_gradients(3, 4))
    # Float32 rounding of the Gramian, times the square of weights of up to 10.
    scaled = NashMTL()(np.float32(scale) * gradients)
    np.testing.assert_allclose(scaled, NashMTL()(gradients), atol=1e-5)


@pytest.mark.parametrize("first", SCALES)
@pytest.mark.parametrize("second", SCALES)
def test_gradients_of_any_two_lengths_gain_the_same_relatively(first, second):
    gradients = np.float32([[1.0, -2.0, 0.5], [-0.5, 2.0, 1.0]]) * np.float32([[first], [second]])
    gains = gradients.astype("float64") @ np.asarray(NashMTL()(gradients), "float64")
    lengths = np.linalg.norm(gradients.astype("float64"), axis=1)
    relative = gains / lengths
    # The unit gradients have the same norm, so the bargain of two favours neither.
    np.testing.assert_allclose(relative[0], relative[1], rtol=1e-5)


def test_with_a_preference_relative_gains_are_as_the_shares():
    gradients = random_gradients(6, 3)
    balancing = NashMTL(max_norm=None, preference=[5, 3, 2])
    weights = balancing.compute_weights(gradients @ gradients.T).numpy()
    gains = gradients @ (weights @ gradients)
    np.testing.assert_allclose(weights * gains, [1.5, 0.9, 0.6], rtol=1e-8)  # 3 tasks, shares


def test_only_ratios_of_the_preference_count():
    gradients = random_gradients(7, 3)
    first, second = NashMTL(preference=[1, 1, 4]), NashMTL(preference=[0.25, 0.25, 1.0])
    np.testing.assert_allclose(first(gradients), second(gradients), rtol=1e-10)


def test_preference_by_name_is_bound_to_the_tasks():
    gradients = random_gradients(7, 2)
    balancing = NashMTL(preference={"click": 3.0})
    balancing.bind([TaskRole("view"), TaskRole("click")])
    np.testing.assert_allclose(balancing(gradients), NashMTL(preference=[1.0, 3.0])(gradients))


@pytest.mark.parametrize(
    ("gradients", "expected"),
    [
        ([[3.0, 4.0], [0.0, 0.0]], [0.6, 0.8]),  # the zero gradient is left out
        ([[3.0, 4.0], [-3.0, -4.0]], [0.0, 0.0]),
        ([[3.0, 4.0], [3.0, 4.0]], [0.6, 0.8]),
        ([[3.0, 4.0]], [0.6, 0.8]),
        ([[1.0], [2.0], [3.0]], [1.0]),
        ([[0.0, 0.0], [0.0, 0.0]], [0.0, 0.0]),
    ],
    ids=["zero", "opposite", "duplicate", "one_task", "one_parameter", "all_zero"],
)
def test_degenerate_gradients(gradients, expected):
    np.testing.assert_allclose(NashMTL()(gradients), expected, atol=1e-6)


@pytest.mark.parametrize("max_norm", [1.0, None])
@pytest.mark.parametrize("absent", [0, 1, 2])
def test_an_absent_task_equals_leaving_it_out(absent, max_norm):
    gradients = random_gradients(5, 3)
    active = np.arange(3) != absent
    direction = NashMTL(max_norm)(np.where(active[:, None], gradients, 0), active)
    np.testing.assert_allclose(direction, NashMTL(max_norm)(gradients[active]), rtol=1e-8)


def test_no_active_task_gives_no_direction():
    np.testing.assert_array_equal(NashMTL()(FOUR, np.zeros(4)), np.zeros(6))


def test_a_permutation_of_tasks_permutes_the_weights():
    gradients, order = random_gradients(7, 5), [3, 0, 4, 1, 2]
    gramian = gradients @ gradients.T
    weights = NashMTL().compute_weights(gramian).numpy()
    permuted = NashMTL().compute_weights(gramian[order][:, order])
    np.testing.assert_allclose(permuted, weights[order], rtol=1e-8)


@pytest.mark.parametrize(
    ("max_norm", "error"), [(0.0, ValueError), (float("inf"), ValueError), ("1", TypeError)]
)
def test_another_max_norm_than_a_positive_number_is_refused(max_norm, error):
    with pytest.raises(error, match="`max_norm` must be a finite number > 0, received"):
        NashMTL(max_norm=max_norm)


def test_says_that_it_undoes_a_loss_weighting():
    assert "undoes" in NashMTL().weights_remark
