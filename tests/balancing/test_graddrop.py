import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_mtl
from keras_mtl.balancing.graddrop import GradDrop
from keras_mtl.core import draws
from keras_mtl.core.roles import TaskRole


def numbers_drawn(seed, size):
    """The numbers that a new balancing with this seed draws first."""
    balancing = GradDrop(seed=seed)
    balancing.build_for(1)
    return draws.uniform(size, balancing.seed_generator).numpy()


def sign_dropout(gradients, drawn, leaks):
    """Equations 1 and 2 of the paper, element by element."""
    total = np.zeros(gradients.shape[1])
    for element, (column, draw) in enumerate(zip(gradients.T, drawn, strict=True)):
        purity = 0.5 * (1 + column.sum() / np.abs(column).sum())
        for value, leak in zip(column, leaks, strict=True):
            mask = value > 0 if purity > draw else value < 0
            total[element] += (leak + (1 - leak) * mask) * value
    return total


@pytest.mark.parametrize("leaks", [[0.0, 0.0, 0.0], [1.0, 0.25, 0.0]])
def test_equals_the_equations_of_the_paper(leaks):
    gradients = np.random.default_rng(0).normal(size=(3, 200))
    expected = sign_dropout(gradients, numbers_drawn(4, 200), leaks)
    np.testing.assert_allclose(GradDrop(leak=leaks, seed=4)(gradients), expected, atol=1e-12)


def test_where_all_tasks_agree_nothing_is_dropped():
    gradients = np.abs(np.random.default_rng(1).normal(size=(4, 500))) * ([-1.0, 1.0] * 250)
    np.testing.assert_allclose(GradDrop()(gradients), gradients.sum(axis=0), rtol=1e-12)


def test_elements_of_one_sign_only_are_summed():
    direction = np.asarray(GradDrop(seed=0)([[3.0] * 400, [-1.0] * 400]))
    assert set(direction) == {3.0, -1.0}
    # P = (1 + 2/4) / 2 = 3/4: 300 of 400, with a standard deviation of 8.7.
    assert (direction > 0).sum() == pytest.approx(300, abs=45)


def test_on_average_it_is_the_sum():
    gradients = np.repeat(np.float64([[2.0], [-1.5], [0.5]]), 40000, axis=1)
    mean = np.asarray(GradDrop(seed=1)(gradients)).mean()
    # Values 2.5 and -1.5 deviate by 1.94: five standard errors of the mean.
    assert mean == pytest.approx(1.0, abs=5 * 1.94 / 200)


def test_a_task_with_a_leak_of_one_is_never_touched():
    gradients = np.random.default_rng(2).normal(size=(2, 100))
    rest = np.asarray(GradDrop(leak=[1.0, 0.0], seed=2)(gradients)) - gradients[0]
    kept = np.isclose(rest, gradients[1], rtol=1e-6)
    assert (kept | np.isclose(rest, 0, atol=1e-12)).all()
    assert 0 < kept.sum() < 100


def test_leaks_by_name_are_bound_to_the_tasks():
    gradients = np.random.default_rng(3).normal(size=(2, 50))
    balancing = GradDrop(leak={"click": 0.5}, seed=3)
    balancing.bind([TaskRole("view"), TaskRole("click")])
    expected = GradDrop(leak=[0.0, 0.5], seed=3)(gradients)
    np.testing.assert_array_equal(balancing(gradients), expected)
    with pytest.raises(ValueError, match=r"`leak` must have only task names as keys"):
        GradDrop(leak={"clicks": 0.5}).bind([TaskRole("click")])


def test_parts_draw_each_their_own_numbers():
    part = tf.constant([[1.0] * 64, [-1.0] * 64])
    balancing = GradDrop(seed=4)
    balancing.build_for(2)
    first, second = balancing.combine([part, part], part @ tf.transpose(part), tf.ones(2))
    assert (first.numpy() != second.numpy()).any()


def test_an_absent_task_equals_leaving_it_out():
    gradients = np.random.default_rng(5).normal(size=(3, 50))
    direction = GradDrop(seed=5)(gradients, [True, False, True])
    np.testing.assert_array_equal(direction, GradDrop(seed=5)(gradients[[0, 2]]))


def test_a_permutation_of_tasks_leaves_the_direction():
    gradients = np.random.default_rng(6).normal(size=(3, 50))
    direction = GradDrop(seed=6)(gradients)
    permuted = GradDrop(seed=6)(gradients[[2, 0, 1]])
    np.testing.assert_allclose(permuted, direction, rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-10, 1e-5, 1.0, 1e5, 1e10])
def test_direction_is_scale_equivariant(scale):
    gradients = np.float32(np.random.default_rng(7).normal(size=(3, 50)))
    expected = scale * np.asarray(GradDrop(seed=7)(gradients), "float64")
    scaled = GradDrop(seed=7)(np.float32(scale) * gradients)
    np.testing.assert_allclose(scaled, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("gradients", "expected"),
    [
        ([[1.0, -2.0], [0.0, 0.0]], [1.0, -2.0]),
        ([[1.0, -2.0], [1.0, -2.0]], [2.0, -4.0]),
        ([[1.0, -2.0]], [1.0, -2.0]),
        ([[0.0, 0.0], [0.0, 0.0]], [0.0, 0.0]),
    ],
    ids=["zero", "duplicate", "one_task", "all_zero"],
)
def test_degenerate_gradients(gradients, expected):
    np.testing.assert_array_equal(GradDrop()(gradients), expected)


def test_no_active_task_gives_no_direction():
    np.testing.assert_array_equal(GradDrop()([[1.0], [2.0]], [0.0, 0.0]), [0.0])


def test_compiled_by_xla_equals_not_compiled():
    gradients = tf.constant(np.random.default_rng(8).normal(size=(3, 50)))
    plain, compiled = GradDrop(seed=8), GradDrop(seed=8)
    compiled.build_for(3)
    step = tf.function(compiled, jit_compile=True)
    for _ in range(2):
        np.testing.assert_allclose(step(gradients), plain(gradients), rtol=1e-12)


def test_replicas_draw_the_same_numbers(strategy):
    gradients = tf.constant([[1.0] * 64, [-1.0] * 64])
    with strategy.scope():
        balancing = GradDrop(seed=9)
        balancing.build_for(2)
    step = tf.function(lambda: strategy.run(lambda: balancing(gradients)))
    for _ in range(2):
        first, second = (value.numpy() for value in step().values)
        np.testing.assert_array_equal(first, second)


def test_options_are_in_the_config():
    balancing = GradDrop(leak=[0.5, 0], seed=7)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(balancing))
    assert (copy.leak, copy.seed) == ([0.5, 0.0], 7)


def feature_dropout(gradients, features, drawn, leaks):
    """Algorithm 1 of the paper on features: gradients `(tasks, examples, features)`."""
    total = np.zeros(features.shape)
    for feature, draw in enumerate(drawn):
        votes = [float(grad[:, feature] @ np.sign(features[:, feature])) for grad in gradients]
        purity = 0.5 * (1 + sum(votes) / sum(abs(vote) for vote in votes))
        for vote, leak, gradient in zip(votes, leaks, gradients, strict=True):
            mask = vote > 0 if purity > draw else vote < 0
            total[:, feature] += (leak + (1 - leak) * mask) * gradient[:, feature]
    return total


@pytest.mark.parametrize("leaks", [[0.0, 0.0, 0.0], [1.0, 0.25, 0.0]])
def test_features_have_one_draw_for_the_batch_from_gradients_times_signs(leaks):
    random = np.random.default_rng(10)
    features, gradients = random.normal(size=(6, 50)), random.normal(size=(3, 6, 50))
    expected = feature_dropout(gradients, features, numbers_drawn(5, 50), leaks)
    balancing = GradDrop(leak=leaks, seed=5, scope="features")
    found = balancing(gradients.reshape(3, 300), features=features)
    np.testing.assert_allclose(found, expected.reshape(300), atol=1e-12)


def test_features_of_any_rank_count_as_one_row_an_example():
    random = np.random.default_rng(11)
    features, gradients = random.normal(size=(4, 3, 5)), random.normal(size=(2, 60))
    found = GradDrop(seed=6)(gradients, features=features)
    flat = GradDrop(seed=6)(gradients, features=features.reshape(4, 15))
    np.testing.assert_array_equal(found, flat)
    single = GradDrop(seed=6)(gradients[:, :4], features=features[:, 0, 0])
    column = GradDrop(seed=6)(gradients[:, :4], features=features[:, 0, :1])
    np.testing.assert_array_equal(single, column)


def test_features_that_do_not_fit_the_gradients_are_refused():
    with pytest.raises(ValueError, match=r"as many elements as a gradient, 6, received shape \(2"):
        GradDrop()(np.ones((2, 6)), features=np.ones((2, 4)))


def test_replicas_vote_together_on_features(strategy):
    random = np.random.default_rng(12)
    features, gradients = random.normal(size=(8, 20)), random.normal(size=(2, 8, 20))
    expected = np.asarray(GradDrop(seed=13)(gradients.reshape(2, 160), features=features))
    with strategy.scope():
        balancing = GradDrop(seed=13)
        balancing.build_for(2)
    parts = [
        (tf.constant(gradients[:, rows].reshape(2, 80)), tf.constant(features[rows]))
        for rows in (slice(0, 4), slice(4, 8))
    ]
    placed = strategy.experimental_distribute_values_from_function(
        lambda context: parts[context.replica_id_in_sync_group]
    )
    step = tf.function(
        lambda: strategy.run(lambda part: balancing(part[0], features=part[1]), args=(placed,))
    )
    found = np.concatenate([value.numpy() for value in step().values])
    np.testing.assert_allclose(found, expected, atol=1e-12)


def features_training(balancing):
    """A model of two tasks after one step, its features cut behind a nonlinear layer."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(4, "tanh", name="trunk")(inputs)
    outputs = {task: keras.layers.Dense(1, name=f"{task}_head")(hidden) for task in ("a", "b")}
    model = keras_mtl.MultiTaskModel(inputs, outputs)
    model.compile(keras.optimizers.SGD(1.0), "mse", gradient_balancing=balancing)
    random = np.random.default_rng(14)
    x, y = random.normal(size=(5, 3)), random.normal(size=(2, 5, 1))
    before = [variable.numpy() for variable in model.trainable_variables]
    model.fit(x, {"a": y[0], "b": y[1]}, batch_size=5, verbose=0)
    return x, y, before, [variable.numpy() for variable in model.trainable_variables]


def test_a_step_in_scope_features_is_the_algorithm_of_the_paper():
    x, y, before, after = features_training(GradDrop(seed=15, scope="features"))
    kernel, bias, *heads = before
    features = np.tanh(x @ kernel + bias)
    gradients = [
        2 / 5 * (features @ heads[2 * task] + heads[2 * task + 1] - y[task]) @ heads[2 * task].T
        for task in (0, 1)
    ]
    chosen = feature_dropout(np.stack(gradients), features, numbers_drawn(15, 4), [0.0, 0.0])
    expected = kernel - x.T @ (chosen * (1 - features**2))
    np.testing.assert_allclose(after[0], expected, rtol=1e-5, atol=1e-6)


def test_reuse_of_weights_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="no weights to reuse"):
        GradDrop(refresh_every=2)


@pytest.mark.parametrize(
    ("leak", "error", "message"),
    [
        (1.5, ValueError, r"`leak` must be a finite number >= 0.0 and <= 1.0, received 1.5"),
        ([0.0, -1.0], ValueError, r"`leak\[1\]` must be a finite number"),
        ("all", TypeError, r"`leak` must be a number from 0 to 1, a list"),
        (None, TypeError, r"`leak` must be a number from 0 to 1, a list"),
    ],
)
def test_a_leak_that_cannot_be_is_refused(leak, error, message):
    with pytest.raises(error, match=message):
        GradDrop(leak=leak)
