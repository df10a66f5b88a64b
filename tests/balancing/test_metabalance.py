import keras
import numpy as np
import pytest

from keras_mtl.balancing.metabalance import MetaBalance
from keras_mtl.core.roles import TaskRole

GRADIENTS = np.float32([[3.0, 4.0], [0.0, 10.0], [0.5, 0.0]])


def test_worked_by_hand():
    # Lengths 5, 10 and 0.5: factors 0.7 / 2 + 0.3 and 0.7 * 10 + 0.3.
    expected = np.array([3.0, 4.0]) + 0.65 * np.array([0.0, 10.0]) + 7.3 * np.array([0.5, 0.0])
    np.testing.assert_allclose(MetaBalance()(GRADIENTS), expected, rtol=1e-6)


def test_relaxed_fully_the_lengths_are_matched():
    balancing = MetaBalance(relax=1.0)
    expected = [3.0 + 5.0, 4.0 + 5.0]
    np.testing.assert_allclose(balancing(GRADIENTS), expected, rtol=1e-6)


def test_not_relaxed_it_is_the_sum():
    np.testing.assert_allclose(MetaBalance(relax=0.0)(GRADIENTS), GRADIENTS.sum(axis=0), rtol=1e-6)


def test_averages_are_those_of_the_paper():
    """They start at 0 there, without correction: the quotients are the same."""
    balancing = MetaBalance(relax=0.7, beta=0.9)
    norms = np.zeros(3)
    for step in range(5):
        gradients = np.random.default_rng(step).normal(size=(3, 4))
        norms = 0.9 * norms + 0.1 * np.linalg.norm(gradients, axis=1)
        expected = ((0.7 * norms[0] / norms + 0.3)[:, None] * gradients).sum(axis=0)
        # The averages are kept in float32.
        np.testing.assert_allclose(balancing(gradients), expected, rtol=1e-5, atol=1e-6)


def test_each_variable_is_matched_by_itself():
    balancing = MetaBalance(relax=1.0)
    balancing.build_for(2)
    balancing.build_for_parts([1, 1])
    parts = [keras.ops.array([[1.0], [10.0]]), keras.ops.array([[4.0], [1.0]])]
    found = balancing.combine(parts, None, keras.ops.ones(2))
    np.testing.assert_allclose(found, [[2.0], [8.0]], rtol=1e-6)
    with pytest.raises(ValueError, match="in 2 parts, received 1"):
        balancing.build_for_parts([2])


def test_several_main_tasks_count_by_their_mean_length():
    roles = [TaskRole("a"), TaskRole("b", auxiliary=True), TaskRole("c")]
    found = MetaBalance(relax=1.0).bind(roles)(GRADIENTS)
    np.testing.assert_allclose(found, [3.5, 4.0 + (5.0 + 0.5) / 2], rtol=1e-6)


def test_without_the_main_task_auxiliary_gradients_stay():
    found = MetaBalance()(GRADIENTS, [False, True, True])
    np.testing.assert_allclose(found, [0.5, 10.0], rtol=1e-6)


def test_an_absent_task_leaves_no_trace():
    balancing, without = MetaBalance(), MetaBalance()
    for scale in (1.0, 2.0):
        gradients = scale * GRADIENTS
        found = balancing(gradients, [True, False, True])
        np.testing.assert_allclose(found, without(gradients[[0, 2]]), rtol=1e-6)
    # Its average begins in its own first step, as if there had been none before.
    np.testing.assert_allclose(balancing.averages[0][1], 0.0)
    balancing(GRADIENTS)
    np.testing.assert_allclose(balancing.averages[0][1] / balancing.filled[1], 10.0, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-25, 1e-10, 1e10, 1e25])
def test_length_of_an_auxiliary_gradient_does_not_matter(scale):
    gradients = np.float32([[1.0, 0.0], [0.0, scale]])
    np.testing.assert_allclose(MetaBalance(relax=1.0)(gradients), [1.0, 1.0], rtol=1e-6)


@pytest.mark.parametrize("zero", [0, 1])
def test_a_zero_gradient(zero):
    gradients = np.ones((2, 2), "float32")
    gradients[zero] = 0.0
    # Matched to 0, 0.3 of the auxiliary gradient are left.
    expected = [0.3, 0.3] if zero == 0 else [1.0, 1.0]
    np.testing.assert_allclose(MetaBalance()(gradients), expected, rtol=1e-6)


def test_errors():
    with pytest.raises(ValueError, match="`beta` must be below 1"):
        MetaBalance(beta=1.0)
    with pytest.raises(ValueError, match="`relax`"):
        MetaBalance(relax=1.5)
    with pytest.raises(ValueError, match="must be 'parameters'"):
        MetaBalance(scope="features")
