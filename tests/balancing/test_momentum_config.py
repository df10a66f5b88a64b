import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mtl.balancing import ConFIG
from keras_mtl.balancing.momentum_config import MomentumConFIG


def random_gradients(seed, num_tasks, num_params=6):
    gradients = np.random.default_rng(seed).normal(size=(num_tasks, num_params))
    return gradients - 0.9 * gradients.mean(axis=0)  # conflicting


class Algorithm:
    """M-ConFIG of the paper, with its vectors: tasks in turn."""

    def __init__(self, num_tasks, size, beta_1=0.9, beta_2=0.999, epsilon=1e-8):
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.m, self.turns = np.zeros((num_tasks, size)), np.zeros(num_tasks)
        self.average, self.squares, self.t = np.zeros(size), np.zeros(size), 0

    def step(self, task, gradient):
        self.turns[task] += 1
        self.m[task] = self.beta_1 * self.m[task] + (1 - self.beta_1) * gradient
        if (self.turns == 0).any():
            return np.zeros_like(gradient)
        self.t += 1
        direction = np.asarray(ConFIG()(self.m / (1 - self.beta_1 ** self.turns[:, None])))
        average = direction * (1 - self.beta_1**self.t)
        pseudo = (average - self.beta_1 * self.average) / (1 - self.beta_1)
        self.average = average
        self.squares = self.beta_2 * self.squares + (1 - self.beta_2) * pseudo**2
        size = np.sqrt(self.squares / (1 - self.beta_2**self.t))
        return direction / (size + self.epsilon)


# In float32 the last of these are 1.
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.7), (0.99999, 1 - 1e-6), (1 - 1e-8,) * 2])
def test_equals_the_algorithm_of_the_paper(betas):
    balancing, algorithm = MomentumConFIG(*betas), Algorithm(3, 6, *betas)
    for step in range(9):
        gradients = random_gradients(step, 3)
        expected = algorithm.step(step % 3, gradients[step % 3])
        # State is kept in float32.
        np.testing.assert_allclose(balancing(gradients), expected, rtol=1e-5, atol=1e-6)


def test_shared_variables_rest_until_every_task_had_a_turn():
    balancing, gradients = MomentumConFIG(), random_gradients(1, 3)
    for _ in range(2):
        np.testing.assert_array_equal(balancing(gradients), np.zeros(6))
    # In the first step of v every element is as large as its divisor.
    np.testing.assert_allclose(np.abs(balancing(gradients)), np.ones(6), rtol=1e-4)


def test_only_the_gradient_of_the_chosen_task_counts():
    plain, blind = MomentumConFIG(), MomentumConFIG()
    for step in range(5):
        gradients = random_gradients(step, 3)
        others = np.arange(3) != step % 3
        expected = plain(gradients)
        np.testing.assert_array_equal(blind(gradients + 9 * others[:, None]), expected)


def chosen_tasks(balancing, gradients, *actives):
    chosen = []
    for active in actives:
        chosen.append(int(np.argmax(balancing.choose(tf.constant(active)))))
        balancing(gradients, active)
    return chosen


def test_tasks_take_turns_and_absent_ones_wait():
    balancing, gradients = MomentumConFIG(), random_gradients(2, 3)
    balancing.build_for(3)
    every, some = [1.0, 1.0, 1.0], [1.0, 0.0, 1.0]
    assert chosen_tasks(balancing, gradients, *[every] * 6) == [0, 1, 2, 0, 1, 2]
    assert chosen_tasks(balancing, gradients, *[some] * 3) == [0, 2, 0]
    # The second task had waited one step when it left, and the third two by now.
    assert sorted(chosen_tasks(balancing, gradients, *[every] * 3)) == [0, 1, 2]


def test_a_new_task_has_the_next_turn():
    balancing, gradients = MomentumConFIG(), random_gradients(3, 3)
    balancing.build_for(3)
    assert chosen_tasks(balancing, gradients, *[[1.0, 1.0, 0.0]] * 5) == [0, 1, 0, 1, 0]
    assert chosen_tasks(balancing, gradients, [1.0, 1.0, 1.0]) == [2]


def test_an_absent_task_equals_leaving_it_out_and_its_state_does_not_move():
    both, alone = MomentumConFIG(), MomentumConFIG()
    active = np.array([1.0, 0.0, 1.0])
    for step in range(6):
        gradients = random_gradients(step, 3)
        expected = alone(gradients[[0, 2]])
        np.testing.assert_allclose(both(gradients, active), expected, rtol=1e-5, atol=1e-6)
    assert all((variable.numpy()[1] == 0).all() for variable in both.task_variables)


def test_no_active_task_gives_no_direction_and_moves_nothing():
    balancing = MomentumConFIG()
    for step in range(4):
        balancing(random_gradients(step, 2))
    before = [variable.numpy() for variable in balancing.variables]
    np.testing.assert_array_equal(balancing(random_gradients(9, 2), [0.0, 0.0]), np.zeros(6))
    for variable, value in zip(balancing.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_loss_weight_leaves_the_direction_of_constant_gradients():
    gradients = random_gradients(4, 2)
    plain, weighted = MomentumConFIG(), MomentumConFIG()
    for _ in range(4):
        expected = plain(gradients)
        found = weighted(gradients * 50.0)
        np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-10, 1e-5, 1e5, 1e10])
def test_gradients_of_any_scale_give_a_finite_direction(scale):
    balancing, sizes = MomentumConFIG(), np.float32([[scale], [1.0], [1e10]])
    for step in range(6):
        direction = np.asarray(balancing(np.float32(random_gradients(step, 3)) * sizes))
        assert np.isfinite(direction).all()
        assert np.abs(direction).max() < 100
    assert all(np.isfinite(variable).all() for variable in balancing.variables)


@pytest.mark.parametrize("gradients", [[[1.0, 2.0], [-1.0, -2.0]], [[0.0, 0.0], [0.0, 0.0]]])
def test_gradients_that_cancel_give_no_direction(gradients):
    balancing = MomentumConFIG()
    for _ in range(4):
        np.testing.assert_array_equal(balancing(gradients), [0.0, 0.0])


def test_parts_are_as_good_as_the_whole():
    whole, apart = MomentumConFIG(), MomentumConFIG()
    apart.build_for(2)
    apart.build_for_parts([2, 4])
    for step in range(5):
        gradients = np.float32(random_gradients(step, 2))
        active = tf.ones(2)
        chosen = apart.choose(active)
        rows = [tf.constant(part) for part in np.split(gradients, [2], axis=1)]
        parts = apart.combine(rows, None, active, chosen=chosen)
        np.testing.assert_allclose(np.concatenate(parts), whole(gradients), rtol=1e-5)


def test_compiled_by_xla_equals_not_compiled():
    plain, compiled = MomentumConFIG(), MomentumConFIG()
    compiled.build_for(2)
    compiled.build_for_parts([6])
    step = tf.function(compiled, jit_compile=True)
    for seed in range(4):
        gradients = tf.constant(np.float32(random_gradients(seed, 2)))
        np.testing.assert_allclose(step(gradients), plain(gradients), rtol=1e-4, atol=1e-5)


def test_options_are_in_the_config():
    balancing = MomentumConFIG(beta_1=0.8, beta_2=0.99, epsilon=1e-6)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(balancing))
    assert (copy.beta_1, copy.beta_2, copy.epsilon) == (0.8, 0.99, 1e-6)


def test_options_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"`beta_1` must be a number >= 0 and < 1, received 1.0"):
        MomentumConFIG(beta_1=1.0)
    with pytest.raises(ValueError, match=r"`epsilon` must be a finite number > 0"):
        MomentumConFIG(epsilon=0.0)
    with pytest.raises(ValueError, match=r"received 'features': it keeps numbers for each"):
        MomentumConFIG(scope="features")
