"""Steps that follow from each other as products of conditionals: values, gradients, errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_mtl import Task, architectures
from keras_mtl.architectures.esmm import AllSteps
from keras_mtl.core.partition import Partition
from keras_mtl.heads import BinaryClassification, Classification, Regression

STEPS = ("clicked", "bought", "returned")


def steps(count=2, **arguments):
    return {name: BinaryClassification(**arguments) for name in STEPS[:count]}


def esmm(tasks=None, trunk=None, inputs=None, **options):
    inputs = keras.Input((1,)) if inputs is None else inputs
    tasks = steps() if tasks is None else tasks
    return architectures.esmm(inputs, trunk or keras.layers.Identity(), tasks, **options)


def with_logits(*logits, **arguments):
    """A model whose conditionals have these logits for every row: kernels 0, biases given."""
    model = esmm(steps(len(logits), kernel_initializer="zeros", **arguments))
    for name, logit in zip(STEPS, logits, strict=False):
        model.get_layer(f"{name}_conditional").dense.bias.assign([logit])
    return model


ROW = np.ones((1, 1), "float32")


def test_a_step_has_the_product_of_the_conditionals_up_to_it():
    # Conditionals of 3/4, 1/2 and 1/4.
    predictions = with_logits(np.log(3), 0.0, -np.log(3))(ROW)
    found = [float(predictions[name][0, 0]) for name in STEPS]
    np.testing.assert_allclose(found, [3 / 4, 3 / 8, 3 / 32], rtol=1e-6)


def test_heads_without_activation_predict_the_logit_of_the_product():
    predictions = with_logits(np.log(3), 0.0, activation=None)(ROW)
    np.testing.assert_allclose(predictions["bought"], [[np.log(3 / 5)]], rtol=1e-6)


def test_the_logit_is_that_of_the_product_in_double_precision():
    u, v = np.meshgrid(np.linspace(-30, 30, 61), np.linspace(-30, 30, 61))
    found = AllSteps(BinaryClassification()).logit([ops.cast(x, "float32") for x in (u, v)])
    p = 1 / ((1 + np.exp(-u)) * (1 + np.exp(-v)))
    # Of the odds against, which do not lose digits as 1 - p does.
    against = np.exp(-u) + np.exp(-v) + np.exp(-u - v)
    np.testing.assert_allclose(p, 1 / (1 + against), rtol=1e-12)
    np.testing.assert_allclose(found, -np.log(against), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("logits", "label", "loss", "gradient"),
    [
        ((100.0, 100.0), 0, 100 - np.log(2), 0.5),  # each is half of what is wrong
        ((100.0, 100.0), 1, 0.0, 0.0),
        ((-100.0, -100.0), 1, 200.0, -1.0),
        ((-100.0, -100.0), 0, 0.0, 0.0),
        ((100.0, -100.0), 1, 100.0, 0.0),  # the second alone is wrong
        ((-1e10, 1e10), 1, 1e10, -1.0),
    ],
)
def test_extreme_logits_have_the_exact_loss_and_gradient(logits, label, loss, gradient):
    head = AllSteps(BinaryClassification(), name="bought")
    first, second = (tf.Variable([[logit]]) for logit in logits)
    with tf.GradientTape() as tape:
        predictions = head([first, second])
        found = head.default_loss()(np.array([[label]], "float32"), predictions)
    np.testing.assert_allclose(found, loss, rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(tape.gradient(found, first), [[gradient]], rtol=1e-6, atol=1e-30)


def steps_of_biases(clicked, bought, **compile_arguments):
    """How one step of SGD moves the biases of the conditionals, from 3/4 and 1/2."""
    model = with_logits(np.log(3), 0.0)
    model.compile(keras.optimizers.SGD(1.0), **compile_arguments)
    y = {"clicked": np.array([clicked]), "bought": np.array([bought])}
    model.fit(ROW, y, verbose=0)
    biases = [model.get_layer(f"{name}_conditional").dense.bias[0] for name in y]
    return float(biases[0]) - np.log(3), float(biases[1])


def test_the_click_learns_from_both_losses():
    # With c = 3/4 and p = 3/8, -log c has the derivative c - 1 = -1/4 by the click's logit, and
    # -log(1 - p) has p / (1 - p) times 1 - c = 3/20 by it, times 1 - 1/2 = 3/10 by the other.
    np.testing.assert_allclose(steps_of_biases(1, 0), [1 / 4 - 3 / 20, -3 / 10], rtol=1e-5)


def test_a_missing_click_leaves_what_the_purchase_says_of_it():
    np.testing.assert_allclose(steps_of_biases(-1, 0), [-3 / 20, -3 / 10], rtol=1e-5)


def test_a_missing_purchase_says_nothing_of_its_conditional():
    np.testing.assert_allclose(steps_of_biases(1, -1), [1 / 4, 0.0], rtol=1e-5, atol=1e-7)


def test_logits_are_not_cast_under_mixed_precision():
    head = AllSteps(BinaryClassification(activation=None), dtype="mixed_float16")
    logits = [ops.convert_to_tensor([[value]], "float32") for value in (1e5, 2e5)]
    np.testing.assert_array_equal(head(logits), [[1e5]])  # float16 ends at 65504


def test_parameters_are_those_of_a_trunk_a_tower_and_a_head_for_each_task():
    trunk = [keras.layers.Conv2D(4, 3), keras.layers.Conv2D(6, 3)]
    tasks = {
        "clicked": Task(BinaryClassification(3), tower=keras.layers.Dense(5)),
        "bought": BinaryClassification(3),
    }
    model = esmm(tasks, trunk, keras.Input((8, 8, 2)))
    stages = (9 * 2 + 1) * 4 + (9 * 4 + 1) * 6
    heads = (5 + 1) * 3 + (6 + 1) * 3
    assert model.count_params() == 2 * stages + (6 + 1) * 5 + heads


def names_of(variables):
    return {variable.path.split("/")[0] for variable in variables}


def on_users(count, trunk):
    """A model on embeddings of users, and its partition."""
    user = keras.Input((), dtype="int32", name="user")
    stem = keras.layers.Embedding(9, 4, name="users")(user)
    model = esmm(steps(count), trunk, stem)
    return model, Partition(model, dict(model.output))


def test_what_a_step_has_is_shared_with_all_later_ones():
    model, partition = on_users(3, [keras.layers.Dense(3, name="a"), keras.layers.Dense(2)])
    variables = model.trainable_variables
    for variable in variables:
        step = variable.path.split("_")[0]
        first = STEPS.index(step) if step in STEPS else 0
        assert partition.tasks_of_variable(variable) == STEPS[first:]
    private = {step: names_of(partition.private(variables, step)) for step in STEPS}
    assert private["clicked"] == private["bought"] == set()
    assert {"returned_a", "returned_conditional"} <= private["returned"]


def test_sharing_ends_at_the_stem_and_at_the_conditionals():
    _, partition = on_users(3, keras.layers.Dense(3))
    cuts = {cut._keras_history.operation.name for cut in partition.cuts}
    assert cuts == {"users", "clicked_conditional", "bought_conditional"}


def test_without_a_stem_sharing_ends_at_the_conditionals_alone():
    model = esmm(trunk=keras.layers.Dense(3), inputs=keras.Input((4,)))
    cuts = Partition(model, dict(model.output)).cuts
    assert [cut._keras_history.operation.name for cut in cuts] == ["clicked_conditional"]


def test_one_step_is_a_binary_task_alone():
    model = with_logits(np.log(3))
    np.testing.assert_allclose(model(ROW)["clicked"], [[3 / 4]], rtol=1e-6)
    assert names_of(Partition(model, dict(model.output)).shared(model.variables)) == set()


def test_the_rate_after_a_click_is_a_model_of_its_own(tmp_path):
    model = with_logits(-np.log(3), np.log(3))
    rate = ops.sigmoid(model.get_layer("bought_conditional").output)
    served = keras.Model(model.input, rate)
    served.save(tmp_path / "rate.keras")
    again = keras.models.load_model(tmp_path / "rate.keras")
    np.testing.assert_allclose(again(ROW), [[3 / 4]], rtol=1e-6)


@keras.saving.register_keras_serializable(package="test_esmm")
class Focal(BinaryClassification):
    """A head of the user's, with a loss and a metric of its own."""

    def default_loss(self):
        return keras.losses.BinaryFocalCrossentropy()

    def default_metrics(self):
        return [keras.metrics.AUC(name="auc")]


def test_loss_metrics_and_missing_labels_are_those_of_the_head(tmp_path):
    tasks = {"clicked": Focal(), "bought": BinaryClassification(ignore_class=-9)}
    model = esmm(tasks, keras.layers.Dense(2))
    model.save(tmp_path / "model.keras")
    for one in (model, keras.models.load_model(tmp_path / "model.keras")):
        one.compile(keras.optimizers.SGD(0.0))
        y = {"clicked": np.array([0, 1]), "bought": np.array([1, -9])}
        logs = one.evaluate(np.ones((2, 1)), y, return_dict=True, verbose=0)
        assert {"clicked_auc", "bought_accuracy"} <= set(logs)
        bought = float(one(ROW)["bought"][0, 0])
        np.testing.assert_allclose(logs["bought_loss"], -np.log(bought), rtol=1e-5)


def test_steps_may_be_predicted_at_every_position_under_a_mask():
    ids = keras.Input((None,), dtype="int32")
    words = keras.layers.Embedding(9, 3, mask_zero=True)(ids)
    model = esmm(steps(pooling=None), keras.layers.LSTM(2, return_sequences=True), words)
    bought = model(np.array([[5, 7, 0]]))["bought"]
    assert bought.shape == (1, 3, 1)
    np.testing.assert_array_equal(bought._keras_mask, [[True, True, False]])


@pytest.mark.parametrize("head", [Regression(), Classification(2)])
def test_other_heads_are_refused(head):
    tasks = {"clicked": BinaryClassification(), "bought": head}
    with pytest.raises(ValueError, match=f"Task 'bought' has a {type(head).__name__}"):
        esmm(tasks)


def test_rows_cannot_be_left_out():
    tasks = {"clicked": BinaryClassification()}
    tasks["bought"] = Task(BinaryClassification(), where="clicked")
    with pytest.raises(ValueError, match="`where` of task 'bought' must be left out in esmm"):
        esmm(tasks)


def test_different_numbers_of_labels_are_refused():
    tasks = {"clicked": BinaryClassification(), "bought": BinaryClassification(3)}
    with pytest.raises(ValueError, match=r"equal `units`, received {'clicked': 1, 'bought': 3}"):
        esmm(tasks)


def test_predictions_of_different_shape_are_refused():
    tasks = {"clicked": BinaryClassification(), "bought": BinaryClassification(pooling=None)}
    with pytest.raises(ValueError, match=r"up to 'bought' .* same `pooling`"):
        esmm(tasks, inputs=keras.Input((5, 3)))


def test_features_that_a_head_cannot_take_name_its_task():
    inputs = {"left": keras.Input((2,), name="left"), "right": keras.Input((2,), name="right")}
    tasks = {"clicked": Task(BinaryClassification(), features=["left", "right"])}
    with pytest.raises(ValueError, match="Task 'clicked': its head BinaryClassification cannot"):
        esmm(tasks, inputs=inputs)
