import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_mtl
from keras_mtl.balancing import MGDA, GradientBalancing, GramianBalancing
from keras_mtl.core.roles import TaskRole

GRADIENTS = np.float32([[1.0, -2.0, 3.0], [2.0, 4.0, -0.5]])
NAN = float("nan")


class AgreedSigns(GradientBalancing):
    """Keeps the coordinates on which all active gradients have one sign: needs the elements."""

    def call(self, gradients, gramian, active):
        signs = ops.matmul(active, ops.sign(gradients))
        agreed = ops.abs(signs) == ops.sum(active)
        return ops.where(agreed, ops.sum(gradients, axis=0), 0)


class InverseLengths(GramianBalancing):
    """Weights each gradient by 1 / |g_i|^2: the Gramian is enough."""

    def solve(self, gramian, active):
        return 1 / ops.diagonal(gramian)


class RowSums(GramianBalancing):
    """Weights each gradient by its inner product with the sum of all."""

    def solve(self, gramian, active):
        return ops.sum(gramian, axis=1)


@pytest.fixture(params=[AgreedSigns, InverseLengths], ids=lambda kind: kind.__name__)
def balancing(request):
    return request.param()


def parts_of(gradients):
    return [ops.convert_to_tensor(part) for part in np.split(gradients, [1], axis=1)]


def test_a_balancing_of_gradients_sees_their_elements():
    np.testing.assert_array_equal(AgreedSigns()(GRADIENTS), [3.0, 0.0, 0.0])


def test_a_balancing_of_the_gramian_sums_weighted_gradients():
    weights = np.float32([1 / 14, 1 / 20.25])
    balancing = InverseLengths()
    np.testing.assert_allclose(balancing.compute_weights(GRADIENTS @ GRADIENTS.T), weights)
    np.testing.assert_allclose(balancing(GRADIENTS), weights @ GRADIENTS, rtol=1e-6)


def test_combining_in_parts_equals_one_matrix(balancing):
    direction = balancing(GRADIENTS)
    gramian = ops.convert_to_tensor(GRADIENTS @ GRADIENTS.T)
    parts = balancing.combine(parts_of(GRADIENTS), gramian, ops.ones(2))
    assert [part.shape for part in parts] == [(1,), (2,)]
    np.testing.assert_allclose(np.concatenate(parts), direction, rtol=1e-6)


def test_the_gramian_of_a_part_is_not_used():
    # In scope "features" a replica combines its own part with the Gramian over all of them.
    balancing = InverseLengths().bind([TaskRole("age"), TaskRole("sex")])
    gramian = ops.convert_to_tensor(np.float32([[14.0, -7.5], [-7.5, 20.25]]))
    (part,) = balancing.combine(parts_of(GRADIENTS)[:1], gramian, ops.ones(2))
    np.testing.assert_allclose(part, [1 / 14 + 2 / 20.25], rtol=1e-6)


def test_an_absent_task_has_no_part(balancing):
    gradients = np.vstack([GRADIENTS, np.full((1, 3), NAN, "float32")])
    direction = balancing(gradients, active=[True, True, False])
    np.testing.assert_array_equal(direction, type(balancing)()(GRADIENTS))


def test_the_weight_of_an_absent_task_is_zero():
    gramian = np.float32([[4.0, NAN], [NAN, NAN]])
    weights = InverseLengths().compute_weights(gramian, active=[1, 0])
    np.testing.assert_array_equal(weights, [0.25, 0.0])


def test_the_others_do_not_see_the_inner_products_of_an_absent_task():
    gramian = [[4.0, 1.0, NAN], [1.0, 2.0, 7.0], [NAN, 7.0, 9.0]]
    weights = RowSums().compute_weights(gramian, active=[1, 1, 0])
    np.testing.assert_array_equal(weights, [5.0, 3.0, 0.0])


def test_lists_of_integers_are_read_as_floats():
    weights = InverseLengths().compute_weights([[2, 0], [0, 4]])
    np.testing.assert_array_equal(weights, [0.5, 0.25])
    np.testing.assert_array_equal(InverseLengths()([[2, 0], [0, 4]]), [0.5, 0.25])


def test_gradients_in_float64_are_combined_in_float64(balancing):
    gradients = GRADIENTS.astype("float64")
    gradients[:, 0] += 1e-12
    direction = np.asarray(balancing(gradients))
    assert direction.dtype == "float64"
    assert direction[0] != balancing(GRADIENTS.astype("float64")).numpy()[0]


@pytest.mark.parametrize("shape", [(3,), (2, 3, 1)])
def test_gradients_that_are_no_matrix_are_refused(balancing, shape):
    with pytest.raises(ValueError, match=r"`gradients` must have shape.*one flat gradient a row"):
        balancing(np.zeros(shape, "float32"))


@pytest.mark.parametrize("shape", [(2,), (2, 3)])
def test_a_gramian_that_is_not_square_is_refused(shape):
    with pytest.raises(ValueError, match=r"`gramian` must have shape.*it is G @ G\.T"):
        InverseLengths().compute_weights(np.ones(shape, "float32"))


def test_another_number_of_tasks_is_refused():
    balancing = InverseLengths()
    balancing(GRADIENTS)
    with pytest.raises(ValueError, match="built for 2 tasks, received 3 rows of `gradients`"):
        balancing(np.ones((3, 2), "float32"))
    with pytest.raises(ValueError, match="built for 2 tasks, received 3 rows of `gramian`"):
        balancing.compute_weights(np.eye(3, dtype="float32"))
    with pytest.raises(ValueError, match="built for 2 tasks, received 1 tasks of this model"):
        balancing.bind([TaskRole("age")])


def test_an_unknown_scope_is_refused():
    with pytest.raises(ValueError, match=r"`scope` must be one of .*Did you mean 'features'"):
        MGDA(scope="feature")


def test_a_base_class_says_what_a_subclass_must_define():
    with pytest.raises(NotImplementedError, match=r"define `call\(gradients, gramian, active\)`"):
        GradientBalancing()(GRADIENTS)
    with pytest.raises(NotImplementedError, match=r"define `solve\(gramian, active\)`"):
        GramianBalancing()(GRADIENTS)


def test_get_suggests_the_nearest_name_and_needs_no_default():
    assert keras_mtl.balancing.get(None) is None
    assert isinstance(keras_mtl.balancing.get("MGDA"), MGDA)
    with pytest.raises(ValueError, match="Did you mean 'pcgrad'"):
        keras_mtl.balancing.get("pc_grads")
    with pytest.raises(TypeError, match="`gradient_balancing` must be a name, a GradientBalancing"):
        keras_mtl.balancing.get(1)


@pytest.mark.parametrize("name", sorted(keras_mtl.balancing.names()))
def test_half_precision_is_worked_on_in_float32(name):
    method = keras_mtl.balancing.get(name)
    more = {"losses": [1.0, 2.0]} if method.needs_losses else {}
    half = tf.constant([[1.0, 0.5], [-0.5, 1.0]], "bfloat16")
    direction = method(half, **more)
    assert direction.dtype == tf.float32
    assert np.isfinite(direction).all()


@pytest.mark.parametrize("active", [[True], [True, False, True], [[True, False]]])
def test_active_of_another_shape_is_refused(active):
    with pytest.raises(ValueError, match=r"`active` must have shape \(2,\)"):
        keras_mtl.balancing.get("mgda")([[1.0, 0.0], [0.0, 1.0]], active)


def test_a_graph_of_the_users_own_converts_the_call():
    # What cannot be converted is warned of, in the first call of a process only.
    tf.autograph.to_graph(GradientBalancing.build_for_parts)
