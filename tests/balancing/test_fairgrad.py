import numpy as np
import pytest

from keras_mtl.balancing import DualProj, FairGrad, NashMTL

SCALES = [1e-10, 1e-5, 1.0, 1e5, 1e10]

# Gradients of conflicting tasks and the direction with G w = w^(-1 / 2), from an independent
# solver.
FOUR = np.float64(
    [
        [-0.253159661, 0.6393599159, -2.0830681411, 0.2158045961, 1.2248275402, -0.1072739055],
        [0.1543355355, -0.3871399433, 2.0290722208, -0.0453860299, -1.4506786991, -0.4052278554],
        [-2.288315102, 1.0493965493, -0.4164743185, -0.7425535252, 1.0724701316, -1.6510755894],
        [0.5354293563, -2.0644148031, -0.6621593397, -1.2042198456, 1.4619756272, 1.7661608779],
    ]
)
FOUR_DIRECTION = np.float64(
    [-0.13546636126, -1.61408559847, -0.67706077308, -0.77131109889, -0.12783132072, -2.11444240092]
)


def random_gradients(seed, num_tasks, num_params=6):
    gradients = np.random.default_rng(seed).normal(size=(num_tasks, num_params))
    return gradients - 0.9 * gradients.mean(axis=0)  # conflicting


def test_weights_of_two_tasks_worked_by_hand():
    # w = (a, a) with a - a/2 = a^(-1/2): a = 2^(2/3).
    weights = FairGrad(alpha=2.0).compute_weights([[1.0, -0.5], [-0.5, 1.0]])
    np.testing.assert_allclose(weights, [2 ** (2 / 3)] * 2, rtol=1e-6)


# The rows are given to ten digits, and the weights, up to 11, multiply what is left out.
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("float64", 1e-8)])
def test_golden_direction_of_four_conflicting_gradients(dtype, tolerance):
    direction = FairGrad(alpha=2.0)(FOUR.astype(dtype))
    np.testing.assert_allclose(direction, FOUR_DIRECTION, atol=tolerance)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 2.0, 5.0])
def test_every_task_gains_as_the_condition_says(alpha):
    gradients = random_gradients(0, 5, 10)
    weights = FairGrad(alpha).compute_weights(gradients @ gradients.T).numpy()
    gains = gradients @ (weights @ gradients)
    assert (gains > 0).all()
    np.testing.assert_allclose(gains * weights ** (1 / alpha), 1, rtol=1e-8)


@pytest.mark.parametrize("alpha", [0.5, 3.0])
def test_direction_maximises_the_fair_utility_among_those_of_its_length(alpha):
    gradients = random_gradients(1, 3)
    direction = np.asarray(FairGrad(alpha)(gradients))
    length = np.linalg.norm(direction)
    others = direction / length + 0.1 * np.random.default_rng(2).normal(size=(2000, 6))
    others *= length / np.linalg.norm(others, axis=1, keepdims=True)
    gains = np.vstack([others, direction]) @ gradients.T
    gains = gains[(gains > 0).all(axis=1)]
    utility = (gains ** (1 - alpha) / (1 - alpha)).sum(axis=1)
    assert len(utility) > 100
    assert utility.argmax() == len(utility) - 1


def test_alpha_1_is_the_nash_bargain():
    gradients = random_gradients(2, 4)
    bargain = NashMTL(max_norm=None)(gradients)
    np.testing.assert_allclose(FairGrad(alpha=1.0)(gradients), bargain, rtol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_alpha_to_0_tends_to_the_sum_projected_on_what_harms_nobody(seed):
    gradients = random_gradients(seed, 4)
    limit = 4 * np.asarray(DualProj()(gradients))
    distances = [
        np.linalg.norm(FairGrad(alpha)(gradients) - limit) / np.linalg.norm(limit)
        for alpha in (0.1, 0.01, 0.001)
    ]
    # w differs from 1 by about alpha times the logarithm of a gain.
    assert distances[2] < 1e-2
    assert distances[2] < 0.2 * distances[1] < 0.2 * distances[0]


def test_large_alpha_tends_to_equal_gains():
    gradients = random_gradients(3, 3)
    gains = gradients @ np.asarray(FairGrad(alpha=100.0)(gradients))
    # gains = w^(-1/100), and the weights lie within a factor of 10.
    np.testing.assert_allclose(gains, gains.mean(), rtol=0.02)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("scale", SCALES)
def test_direction_scales_as_the_docstring_says(scale, alpha):
    gradients = np.float32(random_gradients(3, 4))
    power = (1 - alpha) / (1 + alpha)
    expected = scale**power * np.asarray(FairGrad(alpha)(gradients), "float64")
    direction = FairGrad(alpha)(np.float32(scale) * gradients)
    # Float32 rounding of the Gramian, times the weights of unit gradients, up to 10.
    tolerance = 1e-5 * np.linalg.norm(expected)
    np.testing.assert_allclose(direction, expected, atol=tolerance)


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_a_loss_weight_acts_in_the_same_power_where_gradients_are_orthogonal(alpha):
    direction = np.asarray(FairGrad(alpha)(np.float64([[3.0, 0.0], [0.0, 1.0]])))
    assert direction[0] / direction[1] == pytest.approx(3 ** ((1 - alpha) / (1 + alpha)))


@pytest.mark.parametrize("alpha", [0.5, 2.0])
@pytest.mark.parametrize("first", SCALES)
@pytest.mark.parametrize("second", SCALES)
def test_gradients_of_any_two_lengths_both_gain(first, second, alpha):
    gradients = np.float32([[1.0, -2.0, 0.5], [-0.5, 2.0, 1.0]]) * np.float32([[first], [second]])
    direction = np.asarray(FairGrad(alpha)(gradients), "float64")
    assert np.isfinite(direction).all()
    bound = -1e-5 * np.linalg.norm(gradients, axis=1) * np.linalg.norm(direction)
    np.testing.assert_array_less(bound, gradients.astype("float64") @ direction)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(
    ("gradients", "unit"),
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
def test_degenerate_gradients(gradients, unit, alpha):
    direction = np.asarray(FairGrad(alpha)(gradients))
    # Where there is no solution, float32 rounds weights of a thousand.
    np.testing.assert_allclose(direction, np.linalg.norm(direction) * np.array(unit), atol=1e-3)
    assert (np.linalg.norm(direction) > 0.1) == any(unit)


@pytest.mark.parametrize("absent", [0, 1, 2])
def test_an_absent_task_equals_leaving_it_out(absent):
    gradients = random_gradients(5, 3)
    active = np.arange(3) != absent
    direction = FairGrad(2.0)(np.where(active[:, None], gradients, 0), active)
    np.testing.assert_allclose(direction, FairGrad(2.0)(gradients[active]), rtol=1e-8)


def test_no_active_task_gives_no_direction():
    np.testing.assert_array_equal(FairGrad()(FOUR, np.zeros(4)), np.zeros(6))


def test_a_permutation_of_tasks_permutes_the_weights():
    gradients, order = random_gradients(7, 5), [3, 0, 4, 1, 2]
    gramian = gradients @ gradients.T
    weights = FairGrad(0.5).compute_weights(gramian).numpy()
    permuted = FairGrad(0.5).compute_weights(gramian[order][:, order])
    np.testing.assert_allclose(permuted, weights[order], rtol=1e-8)


@pytest.mark.parametrize(
    ("alpha", "error"), [(0.0, ValueError), (1e3, ValueError), (True, TypeError)]
)
def test_an_alpha_out_of_range_is_refused(alpha, error):
    with pytest.raises(error, match=r"`alpha` must be a finite number >= 0.001 and <= 100.0, rec"):
        FairGrad(alpha)


@pytest.mark.parametrize(("alpha", "word"), [(1.0, "undoes"), (2.0, "reverses")])
def test_says_what_becomes_of_a_loss_weighting(alpha, word):
    assert word in FairGrad(alpha).weights_remark
    assert FairGrad(0.5).weights_remark is None
