"""What balancing needs of every architecture: which variables and features tasks share."""

import warnings

import architecture_support as support
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_mtl.balancing import MGDA, GramianBalancing, PCGrad
from keras_mtl.core.partition import Partition

SCOPES = ["parameters", "features"]


class Sum(GramianBalancing):
    """Weighs every task gradient with 1, as training without balancing does."""

    def solve(self, gramian, active):
        return ops.ones_like(ops.diagonal(gramian))


def trained(name, given, balancing):
    keras.utils.set_random_seed(0)
    model = support.build(name, given=given)
    with warnings.catch_warnings():
        # Of architectures with nothing to balance: their own tests expect the warning.
        warnings.filterwarnings("ignore", ".*nothing to balance")
        model.compile(keras.optimizers.SGD(0.1), gradient_balancing=balancing)
    x, y = support.data(model)
    model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return model


@pytest.mark.parametrize("name", support.BUILDERS)
def test_the_partition_is_what_the_gradients_say(name):
    model = support.build(name, given="stem")
    x, _ = support.data(model)
    # Weights that start at 0 and gates that start even must not hide whom they serve.
    random = np.random.default_rng(1)
    model.set_weights([random.uniform(0.05, 0.25, w.shape) for w in model.get_weights()])
    with tf.GradientTape(persistent=True) as tape:
        totals = {task: ops.sum(ops.square(value)) for task, value in model(x).items()}
    partition = Partition(model, dict(model.output))
    for variable in model.trainable_variables:
        gradients = {task: tape.gradient(total, variable.value) for task, total in totals.items()}
        reached = [t for t, g in gradients.items() if g is not None and np.any(g.numpy() != 0)]
        assert sorted(partition.tasks_of_variable(variable)) == sorted(reached), variable.path


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", support.DEEP)
def test_task_gradients_add_up_to_those_of_plain_training(name, scope):
    plain = trained(name, "stem", None)
    summed = trained(name, "stem", Sum(scope=scope))
    for variable, other in zip(plain.variables, summed.variables, strict=True):
        # 1e-5: the same terms, added in another order, over four steps.
        np.testing.assert_allclose(variable.numpy(), other.numpy(), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("balancing", [MGDA, PCGrad])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", support.BUILDERS)
def test_every_architecture_can_be_balanced(name, scope, balancing):
    model = trained(name, "several", balancing(scope=scope))
    assert all(np.all(np.isfinite(variable.numpy())) for variable in model.variables)
