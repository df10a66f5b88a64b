"""`stop_task(..., head="train")`: a task's head trains on, and nothing shared hears of it."""

import contextlib

import keras
import numpy as np
import pytest

import keras_mtl
from keras_mtl.heads import Classification, Regression

ROWS = 8
random = np.random.default_rng(0)
X = random.normal(size=(ROWS, 3)).astype("float32")
Y = {
    "age": random.normal(size=(ROWS, 1)).astype("float32"),
    "job": np.arange(ROWS) % 3,
    "pay": random.normal(size=(ROWS, 1)).astype("float32"),
}
BALANCINGS = [None, *[("mgda", scope) for scope in ("parameters", "features")]]


def build(balancing=None, optimizer=None, reuse=False, **arguments):
    keras.utils.set_random_seed(3)
    if balancing is not None:
        arguments["gradient_balancing"] = keras_mtl.balancing.MGDA(scope=balancing[1])
    inputs = keras.Input((3,), name="x")
    layer = keras.layers.Dense(3, "tanh", name="trunk")
    features = layer(inputs)
    outputs = {
        "age": Regression(name="age")(layer(features) if reuse else features),
        "job": Classification(3, name="job")(features),
        "pay": Regression(name="pay")(features),
    }
    model = keras_mtl.MultiTaskModel(inputs, outputs)
    model.compile(optimizer or keras.optimizers.SGD(0.1), loss_weights={"age": 0.5}, **arguments)
    return model


def fit(model, epochs=1):
    model.fit(X, Y, batch_size=ROWS, epochs=epochs, shuffle=False, verbose=0)


def weights(model, *layers):
    return [np.array(array) for name in layers for array in model.get_layer(name).get_weights()]


def assert_close(first, second, rtol=1e-6):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-7)


@pytest.mark.parametrize("reuse", [False, True], ids=["plain", "reused layer"])
@pytest.mark.parametrize("balancing", BALANCINGS, ids=str)
def test_what_is_shared_trains_as_without_the_task(balancing, reuse):
    detached, frozen = build(balancing, reuse=reuse), build(balancing, reuse=reuse)
    detached.stop_task("age", head="train")
    frozen.stop_task("age")
    fit(detached, epochs=3)
    fit(frozen, epochs=3)
    others = ("trunk", "job", "pay")
    assert_close(weights(detached, *others), weights(frozen, *others))
    assert not np.allclose(weights(detached, "age")[0], weights(frozen, "age")[0], atol=1e-4)


@pytest.mark.parametrize("balancing", BALANCINGS, ids=str)
def test_the_head_takes_the_step_of_its_own_constant_weight(balancing):
    model, plain = build(balancing), build()
    model.stop_task("age", head="train")
    fit(model)
    fit(plain)
    assert_close(weights(model, "age"), weights(plain, "age"))


@pytest.mark.parametrize(
    "balancing",
    [
        keras_mtl.balancing.GradNorm(),
        keras_mtl.balancing.DBMTL(),
        keras_mtl.balancing.ExcessMTL(),
        keras_mtl.balancing.GradNorm(refresh_every=2),
    ],
    ids=["gradnorm", "db_mtl", "excess_mtl", "refresh"],
)
def test_heads_that_a_balancing_weights_train_on_with_their_constant(balancing):
    model = build(gradient_balancing=balancing)
    fit(model)  # a step in which all take part, so that the method has weights
    plain = build()
    plain.set_weights(model.get_weights())
    for part in (model, plain):
        part.stop_task("age", head="train")
        fit(part)
    assert_close(weights(model, "age"), weights(plain, "age"))


def test_a_head_cannot_train_alone_where_one_task_is_taken_a_step():
    model = build(gradient_balancing="momentum_config")
    with pytest.raises(ValueError, match=r"`head` must be 'freeze' .* one task a step"):
        model.stop_task("age", head="train")
    fit(model)
    model.stop_task("age")  # was not stopped half


@pytest.mark.parametrize("replicated", [False, True], ids=["one device", "two replicas"])
def test_detachable_tasks_that_are_attached_train_as_ever(replicated, strategy):
    with strategy.scope() if replicated else contextlib.nullcontext():
        model = build(optimizer=keras.optimizers.Adam(0.01))
    model.prepare_detached_heads()
    fit(model, epochs=3)
    plain = build(optimizer=keras.optimizers.Adam(0.01))
    fit(plain, epochs=3)
    # Adam divides by a root of tiny numbers: rounding shows.
    assert_close(model.get_weights(), plain.get_weights(), rtol=1e-4)


def test_preparing_first_spares_a_trace():
    model, count = build(), []
    step = model.train_step
    model.train_step = lambda data: [count.append(1), step(data)][1]
    model.prepare_detached_heads()
    fit(model)
    model.stop_task("age", head="train")
    fit(model)
    model.resume_task("age")
    fit(model)
    assert len(count) == 1


def test_a_task_may_be_detached_in_the_midst_of_fit():
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                self.model.stop_task("age", head="train")

    model, twin = build(), build()
    model.fit(X, Y, batch_size=ROWS, epochs=3, shuffle=False, verbose=0, callbacks=[Stop()])
    fit(twin)
    twin.stop_task("age", head="train")
    fit(twin, epochs=2)
    assert_close(model.get_weights(), twin.get_weights())


def test_saved_in_this_state_training_goes_on_in_it(tmp_path):
    model = build(optimizer=keras.optimizers.Adam(0.01))
    model.stop_task("age", head="train")
    fit(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    fit(model)
    fit(loaded)
    assert_close(loaded.get_weights(), model.get_weights())


def test_another_word_for_the_head_is_refused():
    with pytest.raises(ValueError, match=r"`head` must be one of \['freeze', 'train'\], received"):
        build().stop_task("age", head="trains")


BLIND = {
    "random": lambda: keras_mtl.balancing.Random(seed=0),
    "modo": keras_mtl.balancing.MoDo,
    "smoothed modo": lambda: keras_mtl.balancing.Smoothed("modo"),
    "refreshed": lambda: keras_mtl.balancing.MGDA(refresh_every=2),
}


@pytest.mark.parametrize("balancing", BLIND.values(), ids=BLIND)
def test_a_head_that_has_diverged_does_not_reach_what_is_shared(balancing):
    model = build(gradient_balancing=balancing())
    model.get_layer("age").dense.kernel.assign(np.full((3, 1), np.nan))
    model.stop_task("age", head="train")
    before = weights(model, "trunk")
    fit(model, epochs=3)
    for array, old in zip(weights(model, "trunk"), before, strict=True):
        assert np.isfinite(array).all()
        assert (array != old).all()
