import numpy as np
import pytest

from keras_mtl.balancing import CosineGate
from keras_mtl.core.roles import TaskRole

GRADIENTS = np.float32([[1.0, 0.0], [1.0, 1.0], [-1.0, 1.0], [0.0, 2.0]])


def test_hard_gate_worked_by_hand():
    # Cosines with [1, 0]: 0.71, -0.71 and 0.
    np.testing.assert_allclose(CosineGate()(GRADIENTS), [2.0, 3.0])


def test_soft_gate_worked_by_hand():
    expected = np.array([1.0, 0.0]) + np.sqrt(0.5) * np.array([1.0, 1.0])
    np.testing.assert_allclose(CosineGate("soft")(GRADIENTS), expected, rtol=1e-6)


def test_several_main_tasks_count_by_their_sum():
    gate = CosineGate().bind([TaskRole(n, auxiliary=n in "bc") for n in "abcd"])
    # The sum of the main gradients is [1, 2]: c has the product 1 with it, and passes now.
    np.testing.assert_allclose(gate(GRADIENTS), GRADIENTS.sum(axis=0))


@pytest.mark.parametrize("gate", ["hard", "soft"])
@pytest.mark.parametrize("seed", range(20))
def test_no_auxiliary_task_turns_the_step_against_the_main_one(gate, seed):
    gradients = np.random.default_rng(seed).normal(size=(5, 3))
    direction = np.asarray(CosineGate(gate)(gradients))
    main = gradients[0]
    assert main @ direction >= main @ main - 1e-9


@pytest.mark.parametrize("scale", [1e-10, 1e10])
def test_length_of_the_auxiliary_gradients_opens_no_gate(scale):
    gradients = np.float32([[1.0, 0.0], [1.0, 1.0], [-1.0, 1.0]]) * np.float32([[1], [scale], [1]])
    gramian = gradients @ gradients.T
    np.testing.assert_array_equal(CosineGate().compute_weights(gramian), [1.0, 1.0, 0.0])
    soft = CosineGate("soft").compute_weights(gramian)
    np.testing.assert_allclose(soft, [1.0, np.sqrt(0.5), 0.0], rtol=1e-6)


def test_without_the_main_task_hard_gates_are_open_and_soft_ones_closed():
    gramian, active = GRADIENTS @ GRADIENTS.T, [0, 1, 1, 1]
    np.testing.assert_array_equal(CosineGate().compute_weights(gramian, active), [0, 1, 1, 1])
    np.testing.assert_array_equal(CosineGate("soft").compute_weights(gramian, active), np.zeros(4))


def test_an_absent_task_leaves_the_others():
    gramian = GRADIENTS @ GRADIENTS.T
    weights = CosineGate().compute_weights(gramian, [1, 0, 1, 1])
    np.testing.assert_array_equal(weights, [1.0, 0.0, 0.0, 1.0])


def test_without_auxiliary_tasks_it_is_the_sum():
    gate = CosineGate().bind([TaskRole(name) for name in "abcd"])
    np.testing.assert_allclose(gate(GRADIENTS), GRADIENTS.sum(axis=0))


def test_errors():
    with pytest.raises(ValueError, match="`gate` must be one of"):
        CosineGate("wide")
