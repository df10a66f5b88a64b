"""Every weighting logs what it does to the gradients, and leaves the validation loss alone."""

import keras
import numpy as np
from conformance_support import TASKS, is_random, make_data, make_model

CONSTANTS = {"size": 0.5, "kind": 2.0, "flag": 1.0}


def _as_in_the_step(method):
    """Returns a method in the state in which the only step has read its weights."""
    if method.hypergradient is not None:
        return method  # which moves before the step, not after it
    return type(method).from_config(method.get_config()).bind(method.roles)


def test_logged_weight_is_the_derivative_and_the_validation_loss_that_of_no_method(weighting_case):
    x, y = make_data(8)
    model = make_model(weighting_case, loss_weights=CONSTANTS, optimizer=keras.optimizers.SGD(0.1))
    before = model.evaluate(x, y, batch_size=8, verbose=0, return_dict=True)
    logs = model.fit(x, y, batch_size=8, shuffle=False, verbose=0, validation_data=(x, y)).history

    method = _as_in_the_step(model._training_state.loss_weighting)
    weights = np.asarray(method.compute_weights([before[f"{task}_loss"] for task in TASKS]))
    for task, weight in zip(TASKS, weights, strict=True):
        if not is_random(method):  # which has drawn anew
            np.testing.assert_allclose(logs[f"{task}_weight"], CONSTANTS[task] * weight, rtol=1e-4)
    expected = sum(CONSTANTS[task] * logs[f"val_{task}_loss"][0] for task in TASKS)
    np.testing.assert_allclose(logs["val_loss"], expected, rtol=1e-6)
