import architecture_support as support
import keras
import numpy as np

from keras_mtl import architectures


def test_one_expert_is_hard_sharing():
    inputs, trunk = support.inputs_and_trunk("convolutional", "one")
    alone = architectures.hard_sharing(inputs, trunk, support.tasks())
    model = architectures.mmoe(inputs, trunk, support.tasks(), num_experts=1)
    own = [v for v in model.variables if "_gate/" not in v.path]
    for variable, other in zip(own, alone.variables, strict=True):
        variable.assign(other)
    x = keras.random.normal((3, *support.SHAPES["convolutional"]))
    for task, expected in support.predictions(alone, x).items():
        np.testing.assert_allclose(support.predictions(model, x)[task], expected, rtol=1e-6)
