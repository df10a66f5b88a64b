import numpy as np
import pytest
import tensorflow as tf

from keras_mtl.balancing import AlignedMTL

SCALES = [1e-10, 1e-5, 1.0, 1e5, 1e10]

# Four conflicting gradients, and the exact direction from an eigendecomposition.
FOUR = np.float64(
    [
        [-0.253159661, 0.6393599159, -2.0830681411, 0.2158045961, 1.2248275402, -0.1072739055],
        [0.1543355355, -0.3871399433, 2.0290722208, -0.0453860299, -1.4506786991, -0.4052278554],
        [-2.288315102, 1.0493965493, -0.4164743185, -0.7425535252, 1.0724701316, -1.6510755894],
        [0.5354293563, -2.0644148031, -0.6621593397, -1.2042198456, 1.4619756272, 1.7661608779],
    ]
)
FOUR_DIRECTION = np.float64(
    [-0.01677068433, -0.05277331306, -0.02459898253, -0.03725863846, 0.01775222728, -0.05089178671]
)


def random_gradients(seed, num_tasks, num_params=12):
    gradients = np.random.default_rng(seed).normal(size=(num_tasks, num_params))
    return gradients - 0.9 * gradients.mean(axis=0)  # conflicting


def test_weights_of_orthogonal_gradients_worked_by_hand():
    # Lengths 2 and 1 become 1 and 1, and are averaged.
    np.testing.assert_allclose(AlignedMTL()([[2.0, 0.0], [0.0, 1.0]]), [0.5, 0.5], rtol=1e-6)


def test_direction_worked_by_hand_for_equally_long_gradients():
    # Of (1, 1) and (1, -1) / 2 times 5 and 3: G has 17/2 and 15/2, so l = 16 and 1 along
    # (1, 1) and (1, -1), and the mean weighs (1, 1) / 2 times sqrt(1 / 16).
    gramian = np.float64([[17.0, 15.0], [15.0, 17.0]]) / 2
    np.testing.assert_allclose(AlignedMTL().compute_weights(gramian), [0.125, 0.125], rtol=1e-12)


@pytest.mark.parametrize("num_tasks", [2, 3, 8])
def test_aligned_gradients_are_orthogonal_and_as_long_as_the_shortest_component(num_tasks):
    gradients = random_gradients(num_tasks, num_tasks)
    gramian, almost_all = gradients @ gradients.T, 1e15
    rows = []
    for task in range(num_tasks):
        preference = np.where(np.arange(num_tasks) == task, almost_all, 1.0)
        rows.append(AlignedMTL(preference=list(preference)).compute_weights(gramian).numpy())
    aligned = np.asarray(rows) @ gradients
    expected = np.linalg.eigvalsh(gramian).min() * np.eye(num_tasks)
    np.testing.assert_allclose(aligned @ aligned.T, expected, atol=1e-11)


def test_preference_weights_the_aligned_gradients_and_only_ratios_count():
    gramian = np.float64([[4.0, 0.0], [0.0, 1.0]])
    weights = AlignedMTL(preference=[6, 2]).compute_weights(gramian)
    np.testing.assert_allclose(weights, [0.75 / 2, 0.25], rtol=1e-12)


def test_a_loss_weight_says_nothing_of_orthogonal_gradients():
    # As the docstring says: lengths are made equal.
    direction = np.asarray(AlignedMTL()([[100.0, 0.0], [0.0, 1.0]]))
    np.testing.assert_allclose(direction, [0.5, 0.5], rtol=1e-5)


@pytest.mark.parametrize(
    ("gradients", "expected"),
    [
        ([[1.0, 2.0], [0.0, 0.0]], [0.5, 1.0]),
        ([[1.0, 2.0], [-1.0, -2.0]], [0.0, 0.0]),
        ([[1.0, 2.0], [1.0, 2.0]], [1.0, 2.0]),
        ([[1.0, 2.0]], [1.0, 2.0]),
        ([[0.0, 0.0], [0.0, 0.0]], [0.0, 0.0]),
    ],
    ids=["zero", "opposite", "duplicate", "one_task", "all_zero"],
)
def test_degenerate_gradients(gradients, expected):
    np.testing.assert_allclose(AlignedMTL()(gradients), expected, atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-8)])
def test_golden_direction_of_four_conflicting_gradients(dtype, tolerance):
    direction = AlignedMTL()(FOUR.astype(dtype))
    tolerance *= np.linalg.norm(FOUR_DIRECTION)
    np.testing.assert_allclose(direction, FOUR_DIRECTION, atol=tolerance)


@pytest.mark.parametrize("scale", SCALES)
def test_direction_is_scale_equivariant(scale):
    gradients = np.float32(random_gradients(3, 4))
    expected = scale * np.asarray(AlignedMTL()(gradients), "float64")
    # Float32 rounding of the Gramian.
    tolerance = 1e-5 * np.linalg.norm(expected)
    np.testing.assert_allclose(
        AlignedMTL()(np.float32(scale) * gradients), expected, atol=tolerance
    )


@pytest.mark.parametrize("absent", [0, 1, 2])
def test_an_absent_task_equals_leaving_it_out(absent):
    gradients = random_gradients(5, 3)
    active = np.arange(3) != absent
    direction = AlignedMTL()(gradients, active)
    np.testing.assert_allclose(direction, AlignedMTL()(gradients[active]), rtol=1e-8)


def test_no_active_task_gives_no_direction():
    direction = AlignedMTL()(random_gradients(0, 3), np.zeros(3))
    np.testing.assert_array_equal(direction, np.zeros(12))


def test_a_permutation_of_tasks_permutes_the_weights():
    gradients, order = random_gradients(7, 5), [3, 0, 4, 1, 2]
    gramian = gradients @ gradients.T
    weights = AlignedMTL().compute_weights(gramian).numpy()
    permuted = AlignedMTL().compute_weights(gramian[order][:, order])
    np.testing.assert_allclose(permuted, weights[order], rtol=1e-9)


@pytest.mark.parametrize("first", SCALES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_of_very_unequal_lengths_give_finite_weights(first, dtype):
    gradients = random_gradients(8, 3) * [[first], [1.0], [1e10]]
    given = gradients.astype(dtype)
    assert np.isfinite(AlignedMTL().compute_weights(given @ given.T)).all()


def test_compiled_by_xla_equals_not_compiled():
    balancing, gradients = AlignedMTL(), tf.constant(random_gradients(9, 2))
    compiled = tf.function(balancing, jit_compile=True)
    np.testing.assert_allclose(compiled(gradients), balancing(gradients), rtol=1e-8)


def test_a_preference_that_is_not_positive_is_refused():
    with pytest.raises(
        ValueError, match=r"`preference\[1\]` must be a finite number > 0, received"
    ):
        AlignedMTL(preference=[1.0, 0.0])
