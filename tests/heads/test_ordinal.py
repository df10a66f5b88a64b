import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_mtl
from keras_mtl.heads import Ordinal
from keras_mtl.heads.ordinal import OrdinalMeanAbsoluteError, median_class

random = np.random.default_rng(0)
X = random.normal(size=(10, 4)).astype("float32")
GRADES = np.array([0, -1, 3, 1, 2, 3, -1, 0, 2, 1])
THERE = GRADES >= 0


def identity_head(num_classes=4, **kwargs):
    """A head whose logits are its features."""
    return Ordinal(num_classes, kernel_initializer="identity", **kwargs)


def sigmoid(z):
    return 1 / (1 + np.exp(-np.asarray(z, "float64")))


def chained(z):
    """Class probabilities by the definition: to reach a class, then to stop there."""
    goes_on = sigmoid(z)
    reached = np.concatenate([np.ones((len(z), 1)), np.cumprod(goes_on, axis=1)], axis=1)
    stops = np.concatenate([1 - goes_on, np.ones((len(z), 1))], axis=1)
    return reached * stops


def build(head=None, optimizer=None):
    trunk = keras.layers.Dense(5, activation="tanh", name="trunk")
    tasks = {"grade": Ordinal(4) if head is None else head}
    model = keras_mtl.architectures.hard_sharing(keras.Input((4,), name="x"), trunk, tasks)
    model.compile(optimizer or keras.optimizers.SGD(0.0))
    return model


def test_predictions_are_class_probabilities_by_hand():
    # Goes on with 0.8, then 0.5, then 0.25.
    z = np.log([[4.0, 1.0, 1 / 3]])
    np.testing.assert_allclose(identity_head()(z), [[0.2, 0.4, 0.3, 0.1]], rtol=1e-6)


def test_probabilities_are_those_of_the_chain_and_add_up_to_one():
    z = random.normal(scale=3.0, size=(50, 3))
    predictions = identity_head()(z)
    np.testing.assert_allclose(predictions, chained(z), rtol=1e-5)
    np.testing.assert_allclose(np.sum(predictions, axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize("label", range(4))
def test_loss_is_that_of_the_questions_that_a_label_has_come_to(label):
    z = np.array([[0.3, -1.2, 2.0]])
    answers = [np.log(sigmoid(z[0, k])) for k in range(label)]
    answers += [np.log(1 - sigmoid(z[0, label]))] if label < 3 else []
    head = identity_head()
    loss = head.default_loss()(np.array([label]), head(z))
    np.testing.assert_allclose(loss, -np.sum(answers), rtol=1e-6)


@pytest.mark.parametrize(
    ("z", "label", "loss", "gradient"),
    [
        ([200.0, 200.0, -200.0], 0, 200.0, [1.0, 0.0, 0.0]),
        ([-200.0, -200.0, -200.0], 3, 600.0, [-1.0, -1.0, -1.0]),
        ([-200.0, -200.0, 200.0], 2, 600.0, [-1.0, -1.0, 1.0]),
        ([1e6, 1e6, 1e6], 3, 0.0, [0.0, 0.0, 0.0]),
    ],
)
def test_extreme_logits_give_the_exact_loss_and_a_gradient(z, label, loss, gradient):
    head = identity_head()
    measure = head.default_loss()

    @tf.function
    def step(features):
        with tf.GradientTape() as tape:
            tape.watch(features)
            value = measure(tf.constant([label]), head(features))
        return value, tape.gradient(value, features)

    value, found = step(tf.constant([z]))
    assert float(value) == loss
    np.testing.assert_allclose(found, [gradient], atol=1e-6)


def test_gradient_is_that_of_the_questions():
    z = tf.constant(random.normal(size=(4, 3)), tf.float32)
    head = identity_head()
    with tf.GradientTape() as tape:
        tape.watch(z)
        loss = head.default_loss()(np.array([0, 1, 2, 3]), head(z))
    # Of each question come to, sigmoid(z_k) - answer.
    asked = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]])
    answers = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]])
    expected = asked * (sigmoid(z) - answers) / 4
    np.testing.assert_allclose(tape.gradient(loss, z), expected, atol=1e-6)


def test_the_median_class_has_the_least_expected_distance():
    probabilities = random.dirichlet(np.full(6, 0.5), size=200)
    classes = np.arange(6)
    distances = probabilities @ np.abs(classes[:, None] - classes[None, :])
    chosen = distances[np.arange(200), median_class(probabilities)]
    np.testing.assert_allclose(chosen, distances.min(axis=1), rtol=1e-6)


def test_answers_are_how_many_ranks_are_more_likely_exceeded_than_not():
    z = random.normal(scale=2.0, size=(100, 3))
    head = identity_head()
    expected = (np.cumprod(sigmoid(z), axis=1) > 0.5).sum(axis=1)
    np.testing.assert_array_equal(head.decode(head(z)), expected)


@pytest.mark.parametrize("axis", [(), (None,)])
def test_missing_grades_reach_neither_loss_nor_metric(axis):
    model = build()
    history = model.fit(X, {"grade": GRADES[(..., *axis)]}, batch_size=4, verbose=0).history
    p = model.predict(X, verbose=0)["grade"][THERE]
    errors = -np.log(p[np.arange(len(p)), GRADES[THERE]])
    distances = np.abs(np.asarray(median_class(p)) - GRADES[THERE])
    np.testing.assert_allclose(history["grade_loss"], errors.mean(), rtol=1e-5)
    np.testing.assert_allclose(history["grade_mae"], distances.mean(), rtol=1e-6)


def test_missing_grades_reach_no_gradient():
    some, rest = build(optimizer=keras.optimizers.SGD(0.5)), build(optimizer="sgd")
    rest.set_weights(some.get_weights())
    rest.compile(keras.optimizers.SGD(0.5))
    some.train_on_batch(X, {"grade": GRADES})
    rest.train_on_batch(X[THERE], {"grade": GRADES[THERE]})
    for one, other in zip(some.get_weights(), rest.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_class_weights_follow_the_grades():
    model = build()
    weights = {0: 2.0, 3: 0.5}
    logs = model.train_on_batch(X, {"grade": GRADES}, class_weight={"grade": weights})
    p = model.predict(X, verbose=0)["grade"][THERE]
    errors = -np.log(p[np.arange(len(p)), GRADES[THERE]])
    expected = np.mean(errors * np.array([2.0, 1.0, 1.0, 0.5])[GRADES[THERE]])
    np.testing.assert_allclose(logs[0], expected, rtol=1e-5)


def test_steps_have_a_grade_each():
    head = Ordinal(5, pooling=None, upsampling=2)
    assert head(np.zeros((2, 3, 4, 7))).shape == head.compute_output_shape((2, 3, 4, 7))
    assert head.compute_output_shape((2, 3, 4, 7)) == (2, 6, 8, 5)
    metric = OrdinalMeanAbsoluteError()
    metric.update_state(np.array([[0, 2]]), np.eye(3)[[[1, 2]]])
    assert float(metric.result()) == 0.5


def test_parameter_count_is_channels_plus_one_times_questions():
    head = Ordinal(4)
    head.build((None, 5, 7))
    assert head.count_params() == (7 + 1) * 3


def test_config_round_trip_keeps_every_argument():
    head = Ordinal(4, None, 9, upsampling=2, kernel_regularizer="l2", name="grade")
    again = Ordinal.from_config(head.get_config())
    assert again.get_config() == head.get_config()
    found = (again.num_classes, again.pooling, again.ignore_class, again.upsampling)
    assert found == (4, None, 9, 2)
    metric = OrdinalMeanAbsoluteError.from_config(OrdinalMeanAbsoluteError(name="d").get_config())
    assert (metric.name, metric._direction) == ("d", "down")


def test_grades_out_of_range_are_named_with_their_row():
    message = r"`y\['grade'\]` must hold class ids from 0 to 3, or -1 .*Received 4\. First in row 2"
    with pytest.raises(ValueError, match=message):
        build().fit(X, {"grade": np.where(np.arange(10) == 2, 4, GRADES)}, verbose=0)


@pytest.mark.parametrize(("value", "error"), [(1, ValueError), (2.5, TypeError)])
def test_number_of_classes_must_be_an_integer_of_at_least_two(value, error):
    with pytest.raises(error, match="`num_classes` must be an integer >="):
        Ordinal(value)
