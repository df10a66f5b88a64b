import itertools

import numpy as np
import pytest
import tensorflow as tf

from keras_mtl.core import solvers

min_norm = tf.function(solvers.min_norm_weights)
qp = tf.function(solvers.nonnegative_qp)


def numbers(text, num_rows):
    return np.array(text.split(), "float64").reshape(num_rows, -1)


# Gradients and the shortest vector of their convex hull, from a tight quadratic program.
GOLDEN = {
    "conflict_of_two": (
        np.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]),
        np.array([0.0, 1.0, 1.0]),
    ),
    "three_random": (
        numbers(
            """
            1.690525703800356 -0.4659373705408328 0.0328201636785844
            0.40751628299650783 -0.7889230286257386
            0.00206557290594813 -0.0008903858579313628 -1.7547243063454208
            1.0176580056634932 0.6004985159195494
            -0.6254289739667597 -0.17154826119572117 0.5052993741967516
            -0.261356415191647 -0.2427490786725466
            """,
            3,
        ),
        numbers(
            """
            -0.10304677138409751 -0.18659333290586588 -0.03850809462401111
            0.11464933526892754 -0.1626597584274024
            """,
            1,
        )[0],
    ),
    "task_left_out": (
        numbers(
            """
            -0.25315966103027754 0.6393599159294489 -2.083068141136817
            0.21580459605904068 1.2248275402201354 -0.1072739055224301
            0.15433553545635803 -0.3871399432863881 2.029072220761112
            -0.04538602986064609 -1.4506786991465748 -0.4052278554276867
            -2.2883151019717225 1.0493965493432547 -0.41647431852001854
            -0.7425535252045677 1.0724701315754954 -1.6510755894058389
            0.535429356326091 -2.0644148031211755 -0.6621593396668087
            -1.2042198455997326 1.461975627213524 1.7661608779293339
            """,
            4,
        ),
        numbers(
            """
            0.003837091553747796 -0.06769038020888153 -0.03338790520067665
            -0.024994859479980407 -0.012143053089357177 -0.09139248916
            """,
            1,
        )[0],
    ),
}


def supports(size):
    for count in range(size + 1):
        yield from (list(chosen) for chosen in itertools.combinations(range(size), count))


def slow_qp(matrix, linear):
    """The best of the stationary points on all supports: exact, and exponential in K."""
    best, value = np.zeros_like(linear), 0.0
    for support in supports(len(linear)):
        point = np.zeros_like(linear)
        block = matrix[np.ix_(support, support)]
        point[support] = np.linalg.lstsq(block, linear[support], rcond=None)[0]
        objective = 0.5 * point @ matrix @ point - linear @ point
        if (point >= 0).all() and objective < value:
            best, value = point, objective
    return best


def random_gradients(random, kind, num_tasks):
    gradients = random.normal(size=(num_tasks, random.integers(1, 2 * num_tasks + 2)))
    if kind == "conflict":
        gradients -= random.uniform(0.5, 1.2) * gradients.mean(axis=0)
    if kind == "scales":
        gradients *= 10.0 ** random.uniform(-10, 10, size=(num_tasks, 1))
    if kind == "low_rank":
        gradients = random.normal(size=(num_tasks, 2)) @ random.normal(size=(2, 5))
    if kind == "duplicates":
        gradients[-1] = gradients[0] * random.choice([-2, -1, 1])
    return gradients


def weights_of(gradients, active=None):
    active = np.ones(len(gradients)) if active is None else active
    return min_norm(tf.constant(gradients @ gradients.T), tf.constant(active)).numpy()


def excess(gradients, weights):
    """By how much g_i . d >= |d|^2 is missed, relative to the lengths of what is multiplied."""
    gradients, weights = gradients.astype("float64"), weights.astype("float64")
    direction = weights @ gradients
    lengths = np.linalg.norm(gradients, axis=1)
    missed = direction @ direction - gradients @ direction
    return (missed / (lengths * lengths[weights > 0].max() + 1e-300)).max()


@pytest.mark.parametrize(
    ("matrix", "linear", "expected"),
    [
        ([[2.0, 0.0], [0.0, 2.0]], [2.0, -1.0], [1.0, 0.0]),
        ([[2.0, 1.0], [1.0, 2.0]], [3.0, 3.0], [1.0, 1.0]),
        ([[1.0, -2.0], [-2.0, 5.0]], [1.0, 0.0], [5.0, 2.0]),
        ([[1e-12, 0.0], [0.0, 1e12]], [1e-12, 1e12], [1.0, 1.0]),
    ],
)
def test_qp_worked_by_hand(matrix, linear, expected):
    matrix, linear = tf.constant(matrix, tf.float64), tf.constant(linear, tf.float64)
    np.testing.assert_allclose(solvers.nonnegative_qp(matrix, linear), expected, rtol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_qp_equals_the_enumeration_of_supports(size):
    random = np.random.default_rng(size)
    for _ in range(100):
        root = random.normal(size=(size, size + 1))
        matrix, linear = root @ root.T, random.normal(size=size)
        solution = qp(tf.constant(matrix), tf.constant(linear)).numpy()
        expected = slow_qp(matrix, linear)
        # Conditions of up to 1e6 occur, and the reference itself loses them.
        np.testing.assert_allclose(solution, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("rank", [8, 20, 40])
def test_qp_meets_the_optimality_conditions(rank):
    random = np.random.default_rng(rank)
    root = random.normal(size=(32, rank))
    matrix, linear = root @ root.T, root @ random.normal(size=(rank,))
    solution = qp(tf.constant(matrix), tf.constant(linear)).numpy()
    gradient = matrix @ solution - linear
    assert (solution >= 0).all()
    # Float64 over 32 tasks, in units of the matrix (entries up to about 40).
    np.testing.assert_allclose(np.minimum(gradient, 0), 0, atol=1e-10)
    np.testing.assert_allclose(gradient[solution > 0], 0, atol=1e-10)


def test_qp_solves_several_problems_at_once():
    random = np.random.default_rng(0)
    root = random.normal(size=(6, 7))
    matrix, linear = tf.constant(root @ root.T), tf.constant(random.normal(size=(6, 6)))
    together = solvers.nonnegative_qp(matrix, linear)
    one_by_one = [solvers.nonnegative_qp(matrix, row) for row in linear]
    np.testing.assert_allclose(together, one_by_one, rtol=1e-12, atol=1e-14)


def test_qp_projects_on_the_dual_cone():
    gradients = np.array(GOLDEN["task_left_out"][0])
    gramian = gradients @ gradients.T
    # w >= 1/4 minimising w'Gw: the golden weights come from a tight quadratic program.
    step = solvers.nonnegative_qp(tf.constant(gramian), -gramian.mean(axis=0))
    expected = [0.4462386734430265, 0.6427052553953583, 0.25, 0.25]
    np.testing.assert_allclose(0.25 + step, expected, rtol=1e-8)


def test_qp_leaves_entries_without_a_diagonal_at_zero():
    solution = solvers.nonnegative_qp([[1.0, 0.0], [0.0, 0.0]], [1.0, 1.0])
    np.testing.assert_array_equal(solution, [1.0, 0.0])


def test_qp_stays_finite_on_a_matrix_that_is_not_semidefinite():
    solution = solvers.nonnegative_qp([[1.0, -2.0], [-2.0, 1.0]], [1.0, 1.0]).numpy()
    assert np.isfinite(solution).all()
    assert (solution >= 0).all()


@pytest.mark.parametrize("seed", [3, 14, 17])
def test_search_does_not_spin_on_entries_refused_for_rounding(monkeypatch, seed):
    calls, factorize = [], tf.linalg.cholesky
    monkeypatch.setattr(tf.linalg, "cholesky", lambda x: calls.append(1) or factorize(x))
    random = np.random.default_rng(seed)
    # Of rank 2: in float32 a third task seems to help, and is then refused.
    gradients = np.float32(random.normal(size=(8, 2)) @ random.normal(size=(2, 5)))
    solvers.min_norm_weights(tf.constant(gradients @ gradients.T), np.ones(8))
    assert 2 <= len(calls) < 3 * 8 + 10  # it ends by itself, not at the bound


@pytest.mark.parametrize("case", GOLDEN)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-8)])
def test_min_norm_golden_direction(case, dtype, tolerance):
    gradients, expected = (value.astype(dtype) for value in GOLDEN[case])
    direction = weights_of(gradients) @ gradients
    np.testing.assert_allclose(direction, expected, atol=tolerance * np.abs(expected).max())


def test_min_norm_weights_come_back_in_the_dtype_of_the_gramian():
    for dtype in ("float32", "float64"):
        assert solvers.min_norm_weights(np.eye(2, dtype=dtype), [1.0, 1.0]).dtype == dtype


@pytest.mark.parametrize("kind", ["plain", "conflict", "duplicates", "low_rank"])
def test_min_norm_is_the_shortest_of_all_supports(kind):
    random = np.random.default_rng(0)
    for _ in range(200):
        gradients = random_gradients(random, kind, int(random.integers(1, 6)))
        shortest = np.inf
        for support in itertools.islice(supports(len(gradients)), 1, None):
            rows = gradients[support]
            # u = pinv(G) 1 / sum is the shortest point of the plane through the rows, where
            # the plane misses 0; where it does not, the border has the answer or it is 0.
            bordered = np.block([[rows @ rows.T, np.ones((len(rows), 1))], [np.ones(len(rows)), 0]])
            found = np.linalg.lstsq(bordered, np.eye(len(rows) + 1)[-1], rcond=1e-12)[0][:-1]
            if (found >= -1e-12).all() and abs(found.sum() - 1) < 1e-9:
                shortest = min(shortest, np.linalg.norm(found @ rows))
        length = np.linalg.norm(weights_of(gradients) @ gradients)
        # Near a length of 0 the square root halves the digits of float64.
        assert length <= shortest + 1e-7 * np.linalg.norm(gradients)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["plain", "conflict", "scales", "duplicates", "low_rank"])
def test_min_norm_meets_the_optimality_conditions(kind, dtype):
    random = np.random.default_rng(1)
    # A few times what rounding in the Gramian's dtype can make of 32 tasks.
    tolerance = 1e-6 if dtype == "float32" else 1e-13
    for trial in range(120):
        num_tasks = (1, 2, 3, 8, 17, 32)[trial % 6]
        gradients = random_gradients(random, kind, num_tasks).astype(dtype)
        weights = weights_of(gradients)
        assert (weights >= 0).all()
        assert weights.sum() == pytest.approx(1, abs=1e-6)
        assert excess(gradients, weights) < tolerance


@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e10])
def test_min_norm_does_not_depend_on_the_unit(scale):
    gradients = np.float32(GOLDEN["three_random"][0])
    expected = weights_of(gradients)
    np.testing.assert_allclose(weights_of(gradients * np.float32(scale)), expected, rtol=1e-4)


@pytest.mark.parametrize("length", [1e-10, 1e-5, 1e5, 1e10])
def test_min_norm_of_orthogonal_gradients_of_any_two_lengths(length):
    gradients = np.float32([[1.0, 0.0], [0.0, length]])
    direction = weights_of(gradients) @ gradients
    # Orthogonal: w_i is proportional to 1 / |g_i|^2, and so is g_i's part of |d|^2.
    expected = np.float64([length**2, length]) / (1.0 + length**2)
    np.testing.assert_allclose(direction, expected, atol=1e-7 * np.linalg.norm(expected))


def test_a_zero_gradient_gets_all_the_weight():
    gradients = np.float32([[-1.8, 0.7, 0.9], [0.0, 0.0, 0.0], [-0.9, -0.2, -0.6]])
    np.testing.assert_array_equal(weights_of(gradients), [0.0, 1.0, 0.0])


def test_only_zero_gradients_give_weights_on_the_simplex():
    weights = weights_of(np.zeros((3, 2), "float32"))
    assert (weights >= 0).all()
    assert weights.sum() == 1


def test_opposite_gradients_cancel():
    gradients = np.float32([[1.0, 2.0], [-2.0, -4.0]])
    np.testing.assert_allclose(weights_of(gradients), [2 / 3, 1 / 3], rtol=1e-5)


def test_duplicate_gradients_count_once():
    gradients = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [-1.0, 2.0, 0.0]])
    direction = weights_of(gradients) @ gradients
    np.testing.assert_allclose(direction, [1 / 3, 4 / 3, 2 / 3], rtol=1e-8)


def test_inactive_tasks_have_no_part():
    gradients = np.array(GOLDEN["task_left_out"][0])
    weights = weights_of(gradients, np.array([1.0, 0.0, 1.0, 1.0]))
    rest = weights_of(gradients[[0, 2, 3]])
    np.testing.assert_allclose(weights, [rest[0], 0.0, rest[1], rest[2]], rtol=1e-12)


def test_an_inactive_zero_gradient_is_not_taken():
    gradients = np.float32([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    weights = weights_of(gradients, np.array([1.0, 0.0, 1.0]))
    np.testing.assert_allclose(weights, [0.5, 0.0, 0.5], rtol=1e-6)


@pytest.mark.parametrize("num_tasks", [1, 2, 32])
def test_one_active_task_gets_weight_one(num_tasks):
    gradients = np.random.default_rng(0).normal(size=(num_tasks, 3))
    active = np.eye(num_tasks)[-1]
    np.testing.assert_array_equal(weights_of(gradients, active), active)


@pytest.mark.parametrize("num_tasks", [1, 2, 32])
def test_no_active_task_gets_weight_zero(num_tasks):
    gradients = np.random.default_rng(0).normal(size=(num_tasks, 3))
    weights = weights_of(gradients, np.zeros(num_tasks))
    np.testing.assert_array_equal(weights, np.zeros(num_tasks))


@pytest.mark.parametrize("num_tasks", [1, 3, 8])
def test_compiled_by_xla_equals_not_compiled(num_tasks):
    compiled = tf.function(solvers.min_norm_weights, jit_compile=True)
    random = np.random.default_rng(2)
    for kind in ("conflict", "scales", "low_rank"):
        gradients = random_gradients(random, kind, num_tasks)
        arguments = tf.constant(gradients @ gradients.T), tf.ones(num_tasks, tf.float64)
        direction = compiled(*arguments).numpy() @ gradients
        expected = min_norm(*arguments).numpy() @ gradients
        # The order of sums differs; where lengths span 1e10 the shortest sets the unit.
        np.testing.assert_allclose(direction, expected, rtol=1e-6, atol=1e-12)
