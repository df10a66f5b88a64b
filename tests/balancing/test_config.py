import numpy as np
import pytest
import tensorflow as tf

from keras_mtl.balancing import ConFIG

SCALES = [1e-10, 1e-5, 1.0, 1e5, 1e10]

# Four conflicting gradients, and the exact direction from a pseudo-inverse.
FOUR = np.float64(
    [
        [-0.253159661, 0.6393599159, -2.0830681411, 0.2158045961, 1.2248275402, -0.1072739055],
        [0.1543355355, -0.3871399433, 2.0290722208, -0.0453860299, -1.4506786991, -0.4052278554],
        [-2.288315102, 1.0493965493, -0.4164743185, -0.7425535252, 1.0724701316, -1.6510755894],
        [0.5354293563, -2.0644148031, -0.6621593397, -1.2042198456, 1.4619756272, 1.7661608779],
    ]
)
FOUR_DIRECTION = np.float64(
    [0.10192779221, -0.30803545672, -0.17746128863, -0.05915079246, -0.09192078646, -0.37437888014]
)


def random_gradients(seed, num_tasks, num_params=12):
    gradients = np.random.default_rng(seed).normal(size=(num_tasks, num_params))
    return gradients - 0.9 * gradients.mean(axis=0)  # conflicting


def cosines(gradients, direction):
    lengths = np.linalg.norm(gradients, axis=1) * np.linalg.norm(direction)
    return gradients @ np.asarray(direction) / lengths


def test_direction_worked_by_hand():
    # The bisector of the axes; the projections on it are 3 / sqrt(2) and 1 / sqrt(2).
    np.testing.assert_allclose(ConFIG()([[3.0, 0.0], [0.0, 1.0]]), [2.0, 2.0], rtol=1e-6)


@pytest.mark.parametrize("num_tasks", [2, 3, 8])
def test_cosines_are_equal_and_positive_and_the_length_is_the_sum_of_projections(num_tasks):
    compute = tf.function(ConFIG().compute_weights)
    for seed in range(10):
        gradients = random_gradients(seed, num_tasks)
        direction = compute(tf.constant(gradients @ gradients.T)).numpy() @ gradients
        found = cosines(gradients, direction)
        assert found.min() > 0
        np.testing.assert_allclose(found, found[0], rtol=1e-9)
        length = np.linalg.norm(direction)
        assert length == pytest.approx(np.sum(gradients @ direction) / length, rel=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cosines_are_equal_however_much_lengths_differ(dtype):
    gradients = (random_gradients(1, 3) * [[1e-10], [1.0], [1e10]]).astype(dtype)
    weights = ConFIG().compute_weights(gradients @ gradients.T).numpy().astype("float64")
    found = cosines(gradients.astype("float64"), weights @ gradients)
    np.testing.assert_allclose(found, found[0], rtol=1e-5)  # float32 rounding of the Gramian


def test_equals_the_definition_where_gradients_depend_on_each_other():
    random = np.random.default_rng(0)
    for _ in range(10):
        gradients = random.normal(size=(5, 2)) @ random.normal(size=(2, 4))
        units = gradients / np.linalg.norm(gradients, axis=1, keepdims=True)
        unit = np.linalg.pinv(units, rcond=1e-10) @ np.ones(5)
        unit /= np.linalg.norm(unit)
        np.testing.assert_allclose(ConFIG()(gradients), np.sum(gradients @ unit) * unit, rtol=1e-8)


def test_cosines_are_in_proportion_to_the_preference():
    gradients = random_gradients(4, 3)
    direction = ConFIG(preference=[1.0, 2.0, 4.0])(gradients)
    found = cosines(gradients, direction)
    np.testing.assert_allclose(found / found[0], [1.0, 2.0, 4.0], rtol=1e-9)
    np.testing.assert_allclose(ConFIG(preference=[2, 4, 8])(gradients), direction, rtol=1e-12)


def test_a_loss_weight_leaves_the_direction():
    gradients = random_gradients(2, 3)
    plain = np.asarray(ConFIG()(gradients))
    weighted = np.asarray(ConFIG()(gradients * [[3.0], [1.0], [0.5]]))
    cosine = plain @ weighted / np.linalg.norm(plain) / np.linalg.norm(weighted)
    assert cosine == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize(
    ("gradients", "expected"),
    [
        ([[1.0, 2.0], [0.0, 0.0]], [1.0, 2.0]),
        ([[1.0, 2.0], [-1.0, -2.0]], [0.0, 0.0]),
        ([[1.0, 2.0], [1.0, 2.0]], [2.0, 4.0]),
        ([[1.0, 2.0]], [1.0, 2.0]),
        ([[0.0, 0.0], [0.0, 0.0]], [0.0, 0.0]),
    ],
    ids=["zero", "opposite", "duplicate", "one_task", "all_zero"],
)
def test_degenerate_gradients(gradients, expected):
    np.testing.assert_allclose(ConFIG()(gradients), expected, atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-8)])
def test_golden_direction_of_four_conflicting_gradients(dtype, tolerance):
    direction = ConFIG()(FOUR.astype(dtype))
    tolerance *= np.linalg.norm(FOUR_DIRECTION)
    np.testing.assert_allclose(direction, FOUR_DIRECTION, atol=tolerance)


@pytest.mark.parametrize("scale", SCALES)
def test_direction_is_scale_equivariant(scale):
    gradients = np.float32(random_gradients(3, 4))
    expected = scale * np.asarray(ConFIG()(gradients), "float64")
    # Float32 rounding of the Gramian.
    tolerance = 1e-5 * np.linalg.norm(expected)
    np.testing.assert_allclose(ConFIG()(np.float32(scale) * gradients), expected, atol=tolerance)


@pytest.mark.parametrize("absent", [0, 1, 2])
def test_an_absent_task_equals_leaving_it_out(absent):
    gradients = random_gradients(5, 3)
    active = np.arange(3) != absent
    direction = ConFIG()(gradients, active)
    np.testing.assert_allclose(direction, ConFIG()(gradients[active]), rtol=1e-8)


def test_no_active_task_gives_no_direction():
    direction = ConFIG()(random_gradients(0, 3), np.zeros(3))
    np.testing.assert_array_equal(direction, np.zeros(12))


def test_a_permutation_of_tasks_permutes_the_weights():
    gradients, order = random_gradients(7, 5), [3, 0, 4, 1, 2]
    gramian = gradients @ gradients.T
    weights = ConFIG().compute_weights(gramian).numpy()
    permuted = ConFIG().compute_weights(gramian[order][:, order])
    np.testing.assert_allclose(permuted, weights[order], rtol=1e-9)


@pytest.mark.parametrize("first", SCALES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_of_very_unequal_lengths_give_finite_weights(first, dtype):
    gradients = random_gradients(8, 3) * [[first], [1.0], [1e10]]
    given = gradients.astype(dtype)
    assert np.isfinite(ConFIG().compute_weights(given @ given.T)).all()


def test_compiled_by_xla_equals_not_compiled():
    balancing, gradients = ConFIG(), tf.constant(random_gradients(9, 2))
    compiled = tf.function(balancing, jit_compile=True)
    np.testing.assert_allclose(compiled(gradients), balancing(gradients), rtol=1e-8)


def test_a_preference_that_is_not_positive_is_refused():
    with pytest.raises(
        ValueError, match=r"`preference\[1\]` must be a finite number > 0, received"
    ):
        ConFIG(preference=[1.0, 0.0])
