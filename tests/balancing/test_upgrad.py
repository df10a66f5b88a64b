import numpy as np
import pytest
import tensorflow as tf

from keras_mtl.balancing import DualProj, PCGrad, UPGrad
from keras_mtl.core.roles import TaskRole

GRADIENTS = np.float32([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
SCALES = [1e-10, 1e-5, 1.0, 1e5, 1e10]

# Four conflicting gradients, and the exact direction from tight quadratic programs.
FOUR = np.float64(
    [
        [-0.253159661, 0.6393599159, -2.0830681411, 0.2158045961, 1.2248275402, -0.1072739055],
        [0.1543355355, -0.3871399433, 2.0290722208, -0.0453860299, -1.4506786991, -0.4052278554],
        [-2.288315102, 1.0493965493, -0.4164743185, -0.7425535252, 1.0724701316, -1.6510755894],
        [0.5354293563, -2.0644148031, -0.6621593397, -1.2042198456, 1.4619756272, 1.7661608779],
    ]
)
FOUR_DIRECTION = np.float64(
    [-0.44858723938, -0.37047076221, 0.00736131484, -0.47253369261, 0.21350238431, -0.53280616545]
)


def random_gradients(seed, num_tasks, num_params=6):
    gradients = np.random.default_rng(seed).normal(size=(num_tasks, num_params))
    return gradients - 0.9 * gradients.mean(axis=0)  # conflicting


def kinds(random, num_tasks):
    """Gradients of all kinds: of low rank, duplicate, opposite, zero, of very unequal lengths."""
    plain = random.normal(size=(num_tasks, 2 * num_tasks))
    low = random.normal(size=(num_tasks, 2)) @ random.normal(size=(2, 5))
    repeated, zero = plain.copy(), plain.copy()
    repeated[-1] = repeated[0] * random.choice([-2.0, -1.0, 1.0])
    zero[0] = 0
    scales = plain * 10.0 ** random.uniform(-10, 10, size=(num_tasks, 1))
    return [plain, plain - 0.9 * plain.mean(axis=0), low, repeated, zero, scales]


def test_direction_and_weights_worked_by_hand():
    # The projections are g1 + 22/38 g2 and g2 + 22/18 g1, and the direction is their mean.
    weights = np.float64([1 + 22 / 18, 1 + 22 / 38]) / 2
    gramian = GRADIENTS @ GRADIENTS.T
    np.testing.assert_allclose(UPGrad().compute_weights(gramian), weights, rtol=1e-6)
    np.testing.assert_allclose(UPGrad()(GRADIENTS), weights @ GRADIENTS, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-8)])
def test_golden_direction_of_four_conflicting_gradients(dtype, tolerance):
    gradients = FOUR.astype(dtype)
    direction = UPGrad()(gradients)
    np.testing.assert_allclose(direction, FOUR_DIRECTION, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-12)])
@pytest.mark.parametrize("num_tasks", [2, 8, 32])
def test_no_task_is_harmed(num_tasks, dtype, tolerance):
    compute = tf.function(UPGrad().compute_weights)
    for gradients in kinds(np.random.default_rng(num_tasks), num_tasks):
        given = gradients.astype(dtype)
        weights = compute(tf.constant(given @ given.T)).numpy().astype("float64")
        assert np.isfinite(weights).all()
        given = given.astype("float64")
        lengths = np.linalg.norm(given, axis=1)
        # Rounding of the Gramian, over the lengths of what is multiplied.
        bound = tolerance * lengths * (weights @ lengths)
        np.testing.assert_array_less(-bound - 1e-300, given @ (weights @ given))


def test_is_the_mean_of_the_projections_of_single_gradients():
    # A projection is known from dual_proj, with nearly all preference for one task.
    gradients = random_gradients(1, 4)
    singles = []
    for task in range(4):
        preference = np.where(np.arange(4) == task, 1.0, 1e-12)
        singles.append(DualProj(preference=list(preference))(gradients))
    np.testing.assert_allclose(UPGrad()(gradients), np.mean(singles, axis=0), atol=1e-9)


def test_without_conflict_it_is_the_mean():
    gradients = np.abs(random_gradients(2, 5))
    np.testing.assert_allclose(UPGrad()(gradients), gradients.mean(axis=0), rtol=1e-12)


def test_pcgrad_is_twice_this_for_two_tasks():
    for seed in range(5):
        gradients = random_gradients(seed, 2)
        np.testing.assert_allclose(2 * UPGrad()(gradients), PCGrad()(gradients), rtol=1e-9)


def test_direction_is_linear_under_scaling():
    # Proposition 1 of the paper: c -> A(diag(c) J) is linear where c > 0.
    gradients, random = random_gradients(4, 4), np.random.default_rng(5)
    first, second = random.uniform(0.1, 10, size=(2, 4, 1))
    both = UPGrad()((first + second) * gradients)
    apart = UPGrad()(first * gradients) + UPGrad()(second * gradients)
    np.testing.assert_allclose(both, apart, atol=1e-9)


@pytest.mark.parametrize("scale", SCALES)
def test_direction_is_scale_equivariant(scale):
    gradients = np.float32(random_gradients(3, 4))
    expected = scale * np.asarray(UPGrad()(gradients), "float64")
    # Float32 rounding of the Gramian.
    tolerance = 1e-5 * np.linalg.norm(expected)
    np.testing.assert_allclose(UPGrad()(np.float32(scale) * gradients), expected, atol=tolerance)


def test_preference_weights_the_projections_and_only_ratios_count():
    gradients = random_gradients(6, 3)
    singles = [
        UPGrad(preference=list(np.where(np.arange(3) == task, 1.0, 1e-12)))(gradients)
        for task in range(3)
    ]
    expected = np.float64([0.5, 0.3, 0.2]) @ np.asarray(singles)
    np.testing.assert_allclose(UPGrad(preference=[5, 3, 2])(gradients), expected, atol=1e-9)


def test_preference_by_name_is_bound_to_the_tasks():
    gradients = random_gradients(7, 2)
    balancing = UPGrad(preference={"click": 3.0})
    balancing.bind([TaskRole("view"), TaskRole("click")])
    np.testing.assert_allclose(balancing(gradients), UPGrad(preference=[1.0, 3.0])(gradients))


@pytest.mark.parametrize(
    ("gradients", "expected"),
    [
        ([[1.0, 2.0], [0.0, 0.0]], [0.5, 1.0]),
        ([[1.0, 2.0], [-2.0, -4.0]], [0.0, 0.0]),
        ([[1.0, 2.0], [1.0, 2.0]], [1.0, 2.0]),
        ([[1.0, 2.0]], [1.0, 2.0]),
        ([[0.0, 0.0], [0.0, 0.0]], [0.0, 0.0]),
    ],
    ids=["zero", "opposite", "duplicate", "one_task", "all_zero"],
)
def test_degenerate_gradients(gradients, expected):
    np.testing.assert_allclose(UPGrad()(gradients), expected, atol=1e-6)


@pytest.mark.parametrize("absent", [0, 1, 2])
def test_an_absent_task_equals_leaving_it_out(absent):
    gradients = random_gradients(5, 3)
    active = np.arange(3) != absent
    direction = UPGrad()(gradients, active)
    np.testing.assert_allclose(direction, UPGrad()(gradients[active]), rtol=1e-8)


def test_no_active_task_gives_no_direction():
    np.testing.assert_array_equal(UPGrad()(GRADIENTS, [0.0, 0.0]), np.zeros(3))


def test_a_permutation_of_tasks_permutes_the_weights():
    gradients, order = random_gradients(7, 5), [3, 0, 4, 1, 2]
    gramian = gradients @ gradients.T
    weights = UPGrad().compute_weights(gramian).numpy()
    permuted = UPGrad().compute_weights(gramian[order][:, order])
    np.testing.assert_allclose(permuted, weights[order], atol=1e-10)


def test_compiled_by_xla_equals_not_compiled():
    balancing, gradients = UPGrad(), tf.constant(random_gradients(9, 4))
    compiled = tf.function(balancing, jit_compile=True)
    np.testing.assert_allclose(compiled(gradients), balancing(gradients), rtol=1e-8)


def test_a_preference_that_is_not_positive_is_refused():
    with pytest.raises(
        ValueError, match=r"`preference\[1\]` must be a finite number > 0, received"
    ):
        UPGrad(preference=[1.0, 0.0])
