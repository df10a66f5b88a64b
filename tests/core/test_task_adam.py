import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mtl.core.method import Method
from keras_mtl.core.task_adam import TaskAdam

GRADIENTS = np.random.default_rng(0).normal(size=(12, 3)).astype("float32")
ALL = [1.0, 1.0, 1.0]
# Keras divides by sqrt(v) + epsilon before the correction, the paper after it: 1e-8 of 1e-2.
EPSILON_ELSEWHERE = 1e-5


class Learner(Method):
    """Three values that start at (0.5, -1, 2), and the Adam that moves them."""

    def __init__(self, learning_rate=0.1, num_tasks=3, **kwargs):
        super().__init__()
        self.arguments = {"learning_rate": learning_rate, **kwargs}
        self.build_for(num_tasks)

    def build(self, input_shape):
        super().build(input_shape)
        self.values = self.add_task_variable("values")
        self.values.assign(np.float32([0.5, -1.0, 2.0])[: self.num_tasks])
        self.adam = TaskAdam(self, "adam", **self.arguments)

    def take(self, gradients, active=ALL):
        for gradient in gradients:
            self.adam.apply(self.values, tf.constant(gradient), tf.constant(active))
        return np.asarray(self.values).copy()


def keras_adam(gradients, weight_decay=0.0, **kwargs):
    optimizer = keras.optimizers.Adam(epsilon=1e-8, **kwargs)
    variable = keras.Variable([0.5, -1.0, 2.0])
    for gradient in gradients:
        penalty = weight_decay * variable.numpy()
        optimizer.apply([tf.constant(gradient + penalty)], [variable])
    return variable.numpy()


@pytest.mark.parametrize(
    "kwargs", [{"learning_rate": 0.1}, {"learning_rate": 0.01, "beta_1": 0.5, "beta_2": 0.9}]
)
def test_with_all_tasks_it_is_the_adam_of_keras(kwargs):
    expected = keras_adam(GRADIENTS, **kwargs)
    np.testing.assert_allclose(Learner(**kwargs).take(GRADIENTS), expected, rtol=EPSILON_ELSEWHERE)


def test_weight_decay_is_a_penalty_added_to_the_gradient():
    expected = keras_adam(GRADIENTS, weight_decay=0.3, learning_rate=0.1)
    values = Learner(weight_decay=0.3).take(GRADIENTS)
    np.testing.assert_allclose(values, expected, rtol=EPSILON_ELSEWHERE)
    assert np.max(np.abs(values - Learner().take(GRADIENTS))) > 0.01


def test_first_step_is_the_learning_rate_whatever_the_scale():
    gradient = np.float32([1e-4, -1.0, 1e10])
    values = Learner(learning_rate=0.25).take([gradient])
    np.testing.assert_allclose(values, [0.25, -0.75, 1.75], rtol=1e-3)


def test_absent_task_neither_moves_nor_counts():
    learner = Learner(weight_decay=0.3)
    learner.take(GRADIENTS[:4])
    before = [np.asarray(variable).copy() for variable in learner.task_variables]
    learner.take(GRADIENTS[4:9], active=[1.0, 0.0, 1.0])
    for variable, old in zip(learner.task_variables, before, strict=True):
        assert variable[1] == old[1]
        assert variable[0] != old[0]
    # Back again, its bias correction is that of its own five steps, not of the ten of others.
    present = learner.take(GRADIENTS[9:10])
    expected = Learner(weight_decay=0.3).take(GRADIENTS[[0, 1, 2, 3, 9]])
    np.testing.assert_allclose(present[1], expected[1], rtol=1e-6)


@pytest.mark.parametrize("nothing", [np.nan, np.inf])
def test_gradient_of_an_absent_task_is_not_read(nothing):
    learner = Learner()
    values = learner.take([np.float32([1.0, nothing, -1.0])], active=[1.0, 0.0, 1.0])
    # 1 - 0.999 is 1e-3 to four digits only in float32.
    np.testing.assert_allclose(values, [0.4, -1.0, 2.1], rtol=1e-5)
    assert all(np.all(np.isfinite(variable)) for variable in learner.task_variables)


def test_task_that_never_took_part_stays_finite_and_starts_as_a_fresh_one():
    learner = Learner()
    learner.take(GRADIENTS[:6], active=[1.0, 1.0, 0.0])
    values = learner.take(GRADIENTS[6:8])
    np.testing.assert_allclose(values[2], Learner().take(GRADIENTS[6:8])[2], rtol=1e-6)


def test_huge_gradients_leave_the_state_finite():
    learner = Learner()
    learner.take(np.float32([[1e30, -1e30, 3e38], [1.0, np.inf, 0.0]]))
    assert all(np.all(np.isfinite(variable)) for variable in learner.task_variables)


def test_all_slots_are_task_variables_and_not_trainable():
    learner = Learner()
    names = [variable.name for variable in learner.task_variables]
    assert names == ["values", "adam_momentum", "adam_velocity", "adam_num_steps"]
    assert learner.trainable_variables == []
    assert {variable.shape for variable in learner.variables} == {(3,)}
