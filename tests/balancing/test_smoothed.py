import keras
import numpy as np
import pytest

import keras_mtl
from keras_mtl.balancing import MGDA, PCGrad, Smoothed
from keras_mtl.core.roles import TaskRole

GRADIENTS = np.float32([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
ORTHOGONAL = [np.diag([1.0, 1.0]), np.diag([1.0, 9.0])]  # MGDA's weights: 1/2, 1/2; 9/10, 1/10


def test_weights_are_the_moving_average_of_the_methods():
    smoothed = Smoothed(MGDA(), momentum=0.75)
    np.testing.assert_allclose(smoothed.compute_weights(ORTHOGONAL[0]), [0.5, 0.5])
    # 0.75 * 0.5 + 0.25 * 0.9, then 0.75 of that + 0.25 * 0.9.
    np.testing.assert_allclose(smoothed.compute_weights(ORTHOGONAL[1]), [0.6, 0.4], rtol=1e-6)
    np.testing.assert_allclose(smoothed.compute_weights(ORTHOGONAL[1]), [0.675, 0.325], rtol=1e-6)


def test_constant_weights_equal_those_of_the_method():
    smoothed = Smoothed("mgda", momentum=0.9)
    for _ in range(3):
        np.testing.assert_allclose(smoothed(GRADIENTS), MGDA()(GRADIENTS), atol=1e-6)


def test_without_momentum_it_is_the_method():
    smoothed = Smoothed("mgda", momentum=0.0)
    for gramian in ORTHOGONAL:
        expected = MGDA().compute_weights(gramian)
        np.testing.assert_allclose(smoothed.compute_weights(gramian), expected, rtol=1e-6)


def test_noise_of_the_weights_falls_with_the_momentum():
    random = np.random.default_rng(0)
    gramians = [np.diag(random.uniform(0.5, 2.0, size=3)) for _ in range(60)]
    spread = []
    for momentum in (0.0, 0.9):
        smoothed = Smoothed("mgda", momentum=momentum)
        found = [np.asarray(smoothed.compute_weights(gramian)) for gramian in gramians]
        spread.append(np.std(found[20:], axis=0).mean())
    assert spread[1] < 0.5 * spread[0]


def test_an_absent_task_keeps_its_average_and_starts_with_its_first_weight():
    smoothed = Smoothed("mgda", momentum=0.5)
    smoothed.compute_weights(ORTHOGONAL[0], active=[True, False])
    np.testing.assert_allclose(smoothed.average, [1.0, 0.0])
    smoothed.compute_weights(ORTHOGONAL[1])
    np.testing.assert_allclose(smoothed.average, [0.95, 0.1], rtol=1e-6)
    before = np.asarray(smoothed.average).copy()
    smoothed.compute_weights(ORTHOGONAL[1], active=[False, True])
    assert np.asarray(smoothed.average)[0] == before[0]


def test_what_the_method_needs_is_forwarded():
    smoothed = Smoothed("gradnorm", momentum=0.0)
    assert smoothed.needs_losses
    assert smoothed.weights_heads
    assert len(smoothed.bind([TaskRole("a"), TaskRole("b")]).task_variables) == 2 + 6
    np.testing.assert_allclose(
        smoothed.compute_weights(ORTHOGONAL[1], losses=[1.0, 1.0]), [1.0, 1.0]
    )
    assert Smoothed("pcgrad").random == PCGrad.random


def test_config_holds_the_method():
    smoothed = Smoothed(keras_mtl.balancing.GradNorm(alpha=0.5), momentum=0.3, scope="features")
    config = keras.saving.serialize_keras_object(smoothed)
    again = keras_mtl.balancing.get(config)
    assert (again.momentum, again.scope, again.balancing.alpha) == (0.3, "features", 0.5)


def test_random_state_of_the_method_is_saved(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,), name="x")
    hidden = keras.layers.Dense(4)(inputs)
    model = keras_mtl.MultiTaskModel(
        inputs, {task: keras.layers.Dense(1, name=task)(hidden) for task in "abc"}
    )
    model.compile("sgd", loss="mse", gradient_balancing=Smoothed(PCGrad(seed=1)))
    x, y = np.ones((4, 3)), {task: np.ones((4, 1)) for task in "abc"}
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    states = [
        m._training_state.gradient_balancing.balancing.seed_generator.state for m in (model, loaded)
    ]
    np.testing.assert_array_equal(*states)
    fresh = keras.random.SeedGenerator(1)
    assert np.any(np.asarray(fresh.state) != np.asarray(states[0]))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"momentum": 1.0}, ValueError, "`momentum` must be below 1"),
        ({"momentum": -0.1}, ValueError, "`momentum` must be a finite number >= 0 and <= 1"),
        ({"balancing": "mgad"}, ValueError, "Did you mean 'mgda'"),
        ({"balancing": None}, TypeError, "it has no weights to smooth"),
        ({"balancing": MGDA(refresh_every=2)}, ValueError, "Give it to Smoothed"),
    ],
    ids=str,
)
def test_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        Smoothed(**arguments)
