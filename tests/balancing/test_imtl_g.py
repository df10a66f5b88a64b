import numpy as np
import pytest
import tensorflow as tf

from keras_mtl.balancing import IMTLG

SCALES = [1e-10, 1e-5, 1.0, 1e5, 1e10]

# Four conflicting gradients, and the exact direction from a least-squares solution.
FOUR = np.float64(
    [
        [-0.253159661, 0.6393599159, -2.0830681411, 0.2158045961, 1.2248275402, -0.1072739055],
        [0.1543355355, -0.3871399433, 2.0290722208, -0.0453860299, -1.4506786991, -0.4052278554],
        [-2.288315102, 1.0493965493, -0.4164743185, -0.7425535252, 1.0724701316, -1.6510755894],
        [0.5354293563, -2.0644148031, -0.6621593397, -1.2042198456, 1.4619756272, 1.7661608779],
    ]
)
FOUR_DIRECTION = np.float64(
    [0.02249060814, -0.06796875121, -0.03915725256, -0.01305176209, -0.02028253868, -0.08260758431]
)


def random_gradients(seed, num_tasks, num_params=12):
    gradients = np.random.default_rng(seed).normal(size=(num_tasks, num_params))
    return gradients - 0.9 * gradients.mean(axis=0)  # conflicting


def projections(gradients, direction):
    return gradients @ np.asarray(direction) / np.linalg.norm(gradients, axis=1)


def sum_of_raw_weights(gradients):
    gramian = gradients @ gradients.T
    return np.sum(np.linalg.solve(gramian, np.sqrt(np.diag(gramian))))


def test_weights_worked_by_hand():
    # Orthogonal gradients: a = 1 / |g|, that is (1/3, 1), over their sum 4/3.
    weights = IMTLG().compute_weights([[9.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(weights, [0.25, 0.75], rtol=1e-6)


@pytest.mark.parametrize("num_tasks", [2, 3, 8])
def test_projections_are_equal_and_positive_and_the_weights_sum_to_one(num_tasks):
    compute = tf.function(IMTLG().compute_weights)
    for seed in range(10):
        # The norms are in the range of G: it has full rank.
        gradients = np.random.default_rng(seed).normal(size=(num_tasks, 12))
        if sum_of_raw_weights(gradients) <= 0:
            continue
        weights = compute(tf.constant(gradients @ gradients.T)).numpy()
        assert weights.sum() == pytest.approx(1, abs=1e-12)
        found = projections(gradients, weights @ gradients)
        assert found.min() > 0
        np.testing.assert_allclose(found, found[0], rtol=1e-10)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_projections_are_equal_however_much_lengths_differ(dtype):
    gradients = (random_gradients(1, 3) * [[1e-10], [1.0], [1e10]]).astype(dtype)
    weights = IMTLG().compute_weights(gradients @ gradients.T).numpy().astype("float64")
    found = projections(gradients.astype("float64"), weights @ gradients)
    np.testing.assert_allclose(found, found[0], rtol=1e-4)  # float32 rounding of the Gramian


def test_a_negative_sum_is_turned_round_so_that_no_loss_rises():
    random, negative = np.random.default_rng(0), 0
    compute = tf.function(IMTLG().compute_weights)
    for _ in range(300):
        gradients = random.normal(size=(3, 3))
        total = sum_of_raw_weights(gradients)
        if total > 0:
            continue
        negative += 1
        weights = compute(tf.constant(gradients @ gradients.T)).numpy()
        found = projections(gradients, weights @ gradients)
        assert found.min() > 0
        np.testing.assert_allclose(found, found[0], rtol=1e-8)
        assert np.abs(weights).sum() <= 100 * (1 + 1e-12)
    assert negative > 3  # the case does occur


@pytest.mark.parametrize("nearly", [1 - 1e-9, 1.0, 1 + 1e-9])
def test_a_sum_near_zero_gives_bounded_weights(nearly):
    # The sum is sum_i b_i / |g_i| with b = inv(C) 1 for the cosines C. Where one b is negative,
    # there is a length at which it cancels the others.
    units = np.float64([[0.8, 0.5, 0.11**0.5], [0.6, 0.8, 0.0], [0.6, 0.2, 0.6**0.5]])
    b = np.linalg.solve(units @ units.T, np.ones(3))
    assert (b < 0).sum() == 1
    lengths = np.where(b < 0, -b / b[b > 0].sum() * nearly, 1.0)
    gradients = lengths[:, None] * units
    weights = IMTLG().compute_weights(gradients @ gradients.T).numpy()
    assert np.abs(weights).sum() == pytest.approx(100, rel=1e-9)
    assert (gradients @ (weights @ gradients)).min() > 0


def test_a_loss_weight_leaves_the_direction():
    gradients = random_gradients(2, 3)
    plain = np.asarray(IMTLG()(gradients))
    weighted = np.asarray(IMTLG()(gradients * [[3.0], [1.0], [0.5]]))
    cosine = plain @ weighted / np.linalg.norm(plain) / np.linalg.norm(weighted)
    assert cosine == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize(
    ("gradients", "expected"),
    [
        ([[1.0, 2.0], [0.0, 0.0]], [1.0, 2.0]),
        ([[1.0, 2.0], [-1.0, -2.0]], [0.0, 0.0]),
        ([[1.0, 2.0], [1.0, 2.0]], [1.0, 2.0]),
        ([[1.0, 2.0]], [1.0, 2.0]),
        ([[0.0, 0.0], [0.0, 0.0]], [0.0, 0.0]),
    ],
    ids=["zero", "opposite", "duplicate", "one_task", "all_zero"],
)
def test_degenerate_gradients(gradients, expected):
    np.testing.assert_allclose(IMTLG()(gradients), expected, atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-8)])
def test_golden_direction_of_four_conflicting_gradients(dtype, tolerance):
    direction = IMTLG()(FOUR.astype(dtype))
    tolerance *= np.linalg.norm(FOUR_DIRECTION)
    np.testing.assert_allclose(direction, FOUR_DIRECTION, atol=tolerance)


@pytest.mark.parametrize("scale", SCALES)
def test_direction_is_scale_equivariant(scale):
    gradients = np.float32(random_gradients(3, 4))
    expected = scale * np.asarray(IMTLG()(gradients), "float64")
    # Float32 rounding of the Gramian.
    tolerance = 1e-5 * np.linalg.norm(expected)
    np.testing.assert_allclose(IMTLG()(np.float32(scale) * gradients), expected, atol=tolerance)


@pytest.mark.parametrize("absent", [0, 1, 2])
def test_an_absent_task_equals_leaving_it_out(absent):
    gradients = random_gradients(5, 3)
    active = np.arange(3) != absent
    direction = IMTLG()(gradients, active)
    np.testing.assert_allclose(direction, IMTLG()(gradients[active]), rtol=1e-8)


def test_no_active_task_gives_no_direction():
    direction = IMTLG()(random_gradients(0, 3), np.zeros(3))
    np.testing.assert_array_equal(direction, np.zeros(12))


def test_a_permutation_of_tasks_permutes_the_weights():
    gradients, order = random_gradients(7, 5), [3, 0, 4, 1, 2]
    gramian = gradients @ gradients.T
    weights = IMTLG().compute_weights(gramian).numpy()
    permuted = IMTLG().compute_weights(gramian[order][:, order])
    np.testing.assert_allclose(permuted, weights[order], rtol=1e-9)


@pytest.mark.parametrize("first", SCALES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_of_very_unequal_lengths_give_finite_weights(first, dtype):
    gradients = random_gradients(8, 3) * [[first], [1.0], [1e10]]
    given = gradients.astype(dtype)
    assert np.isfinite(IMTLG().compute_weights(given @ given.T)).all()


def test_compiled_by_xla_equals_not_compiled():
    balancing, gradients = IMTLG(), tf.constant(random_gradients(9, 2))
    compiled = tf.function(balancing, jit_compile=True)
    np.testing.assert_allclose(compiled(gradients), balancing(gradients), rtol=1e-8)


def test_an_absent_task_leaves_near_duplicates_alone():
    random = np.random.default_rng(0)
    gradients = random.normal(size=(5, 40))
    gradients[-1] = gradients[0] + 1e-5 * random.normal(size=40)
    there = np.array([True, False, True, True, True])
    alone = np.asarray(IMTLG()(gradients[there]))
    np.testing.assert_allclose(np.asarray(IMTLG()(gradients, there)), alone, rtol=1e-6, atol=1e-9)
