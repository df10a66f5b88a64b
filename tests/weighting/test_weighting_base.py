"""The contract of loss weighting, on the smallest subclass that uses all of it."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_mtl.core.derivatives import value_and_gradient
from keras_mtl.core.roles import TaskRole
from keras_mtl.weighting import LossWeighting


class Scaled(LossWeighting):
    """Adds s_i log L_i, so that weights are s_i / L_i."""

    def build(self, input_shape):
        super().build(input_shape)
        self.scales = self.add_task_variable("scales", "ones", trainable=True, bound=2.0)

    def call(self, task_losses, active):
        return ops.sum(active * self.scales * ops.log(task_losses))


def _built(weighting, num_tasks):
    weighting.build_for(num_tasks)
    return weighting


def test_weights_are_the_derivative_of_the_total():
    np.testing.assert_allclose(Scaled().compute_weights([4.0, 0.5]), [0.25, 2.0], rtol=1e-6)


@pytest.mark.parametrize("loss", [0.0, np.nan, np.inf])
def test_the_loss_of_an_absent_task_is_not_read(loss):
    weighting = _built(Scaled(), 2)
    total, weights, (gradient,) = value_and_gradient(
        lambda losses: weighting(losses, [True, False]),
        ops.convert_to_tensor([4.0, loss]),
        weighting.trainable_variables,
    )
    np.testing.assert_allclose(total, np.log(4.0), rtol=1e-6)
    np.testing.assert_allclose(weights, [0.25, 0.0], rtol=1e-6)
    np.testing.assert_allclose(gradient, [np.log(4.0), 0.0], rtol=1e-6)


@pytest.mark.parametrize("active", [[True, False], [1, 0], np.float64([1.0, 0.0])])
def test_active_may_be_of_any_number_type(active):
    np.testing.assert_allclose(Scaled().compute_weights([4.0, 4.0], active), [0.25, 0.0])


def test_integer_losses_are_cast():
    np.testing.assert_allclose(Scaled().compute_weights([4, 2]), [0.25, 0.5])


def test_a_float16_policy_does_not_reach_the_weighting():
    weighting = Scaled(dtype="float16")
    total = weighting(ops.convert_to_tensor([6e4, 6e4], dtype="float16"))
    assert weighting.scales.dtype == "float32"
    np.testing.assert_allclose(total, 2 * np.log(6e4), rtol=1e-6)


def test_task_variables_have_one_entry_a_task():
    weighting = _built(Scaled(), 3)
    assert [variable is weighting.scales for variable in weighting.task_variables] == [True]
    assert weighting.scales.shape == (3,)


def test_the_optimizer_keeps_variables_within_their_bound():
    weighting = _built(Scaled(), 2)
    gradient = ops.convert_to_tensor([1e8, -1e8])
    keras.optimizers.SGD(1.0).apply([gradient], weighting.trainable_variables)
    np.testing.assert_array_equal(weighting.scales, [-2.0, 2.0])


def test_bind_builds_for_the_roles():
    roles = [TaskRole("age"), TaskRole("sex", likelihood="classification")]
    weighting = Scaled().bind(roles)
    assert weighting.num_tasks == 2
    assert weighting.roles == tuple(roles)
    assert weighting.scales.shape == (2,)


def test_binding_again_keeps_the_state():
    weighting = Scaled().bind([TaskRole("age"), TaskRole("sex")])
    weighting.scales.assign([0.5, 2.0])
    weighting.bind([TaskRole("age"), TaskRole("sex")])
    np.testing.assert_array_equal(weighting.scales, [0.5, 2.0])


def test_bind_refuses_another_number_of_tasks():
    weighting = _built(Scaled(name="mine"), 2)
    with pytest.raises(
        ValueError,
        match=r"Scaled 'mine' was built for 2 tasks, received 1 tasks of this model. Make a new",
    ):
        weighting.bind([TaskRole("age")])


@pytest.mark.parametrize("method", ["__call__", "compute_weights"])
def test_another_number_of_losses_is_refused(method):
    with pytest.raises(ValueError, match=r"built for 2 tasks, received 3 entries of `task_losses`"):
        getattr(_built(Scaled(), 2), method)([1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("losses", "shape"), [(1.0, r"\(\)"), ([], r"\(0,\)"), ([[1.0, 2.0]], r"\(1, 2\)")]
)
def test_losses_of_another_shape_are_refused(losses, shape):
    message = rf"`task_losses` must have shape \(num_tasks,\), received shape {shape}. Give one"
    with pytest.raises(ValueError, match=message):
        Scaled()(losses)


def test_a_subclass_without_call_is_told_what_to_define():
    class Empty(LossWeighting):
        pass

    with pytest.raises(
        NotImplementedError, match=r"Empty must define `call\(task_losses, active\)`"
    ):
        Empty()([1.0, 2.0])
