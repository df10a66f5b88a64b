"""Steps that attend to the step before: values, the calibrator, what is shared, errors."""

import keras
import numpy as np
import pytest

from keras_mtl import Task, architectures
from keras_mtl.architectures.aitm import CalibratedStep, InformationAttention
from keras_mtl.balancing import PCGrad
from keras_mtl.core.partition import Partition
from keras_mtl.heads import BinaryClassification, Classification, Regression

STEPS = ("clicked", "bought", "returned")
ROW = np.ones((1, 1), "float32")


def steps(count=2, **arguments):
    return {name: BinaryClassification(**arguments) for name in STEPS[:count]}


def aitm(tasks=None, trunk=None, inputs=None, **options):
    inputs = keras.Input((1,)) if inputs is None else inputs
    tasks = steps() if tasks is None else tasks
    return architectures.aitm(inputs, trunk or keras.layers.Identity(), tasks, **options)


def with_probabilities(*probabilities, **options):
    """A model that predicts these for every row: kernels 0, biases given."""
    tasks = steps(len(probabilities), kernel_initializer="zeros")
    model = aitm(tasks, keras.layers.Dense(2), **options)
    for name, p in zip(tasks, probabilities, strict=True):
        model.get_layer(f"{name}_logits").dense.bias.assign([np.log(p / (1 - p))])
    return model


def test_attention_weighs_what_is_transferred_and_what_is_own():
    layer = InformationAttention()
    first = np.sqrt(np.log(3) / np.sqrt(2))
    p, q = np.array([[0.0, 4.0]], "float32"), np.array([[first, 2.0]], "float32")
    layer.build([(1, 2), (1, 2)])
    layer.h1.assign([[0.0, 1.0], [2.0, 0.0]])  # (u1, u2) to (2 u2, u1)
    layer.h2.assign(np.diag([1.0, 0.0]))
    layer.h3.assign(np.diag([2.0, 5.0]))
    # Scores 2 u1^2 / sqrt(2): 0 for p, log 3 for q, so the weights are 1/4 and 3/4.
    np.testing.assert_allclose(layer([p, q]), [[8 / 4 + 4 * 3 / 4, first * 3 / 4]], rtol=1e-6)


def test_attention_works_position_by_position():
    layer = InformationAttention()
    p, q = keras.random.normal((2, 3, 5, 4)), keras.random.normal((2, 3, 5, 4))
    whole = layer([p, q])
    assert whole.shape == (2, 3, 5, 4)
    np.testing.assert_allclose(whole[:, 1, 2], layer([p[:, 1, 2], q[:, 1, 2]]), rtol=1e-5)


def test_attention_is_finite_where_float16_scores_overflow():
    layer = InformationAttention(dtype="mixed_float16")
    layer.build([(1, 4), (1, 4)])
    for variable in layer.weights:
        variable.assign(np.eye(4))
    p, q = np.full((1, 4), 200.0, "float32"), np.full((1, 4), 100.0, "float32")
    np.testing.assert_array_equal(layer([p, q]), p)  # scores of 160000 and 40000, before the root


def test_a_step_reads_what_the_one_before_transfers():
    model = aitm(steps(kernel_initializer="ones", activation=None))
    model.get_layer("bought_transfer").set_weights([np.array([[2.0]]), np.array([1.0])])
    numbers = 2.0, 1.0, np.log(3) / 8
    model.get_layer("bought_attention").set_weights([np.array([[h]]) for h in numbers])
    # z_1 = q = 1 and p = 2 + 1 = 3; scores of 9 and 1 times log(3) / 8 differ by log 3, so that
    # z_2 = 3/4 * 2 * 3 + 1/4 * 2 * 1 = 5.
    predictions = model(ROW)
    np.testing.assert_allclose([predictions["clicked"], predictions["bought"]], [[[1]], [[5]]])


@pytest.mark.parametrize(
    ("probabilities", "excess"),
    [
        ((0.5, 0.75), 0.25),
        ((0.75, 0.5), 0.0),
        ((0.5, 0.75, 0.8), 0.25 + 0.05),
        ((0.5, 0.25, 0.8), 0.55),
        ((0.5,), 0.0),
    ],
)
def test_the_calibrator_adds_by_how_much_a_step_is_likelier_than_the_one_before(
    probabilities, excess
):
    model = with_probabilities(*probabilities)
    model(ROW)
    np.testing.assert_allclose(sum(model.losses), 0.6 * excess, rtol=1e-5, atol=1e-7)


def test_the_calibrator_is_part_of_the_evaluated_loss_and_is_saved(tmp_path):
    model = with_probabilities(0.5, 0.75, calibration=2.0)
    model.compile("sgd")
    model.save(tmp_path / "model.keras")
    y = {"clicked": np.array([1]), "bought": np.array([0])}
    logs = keras.models.load_model(tmp_path / "model.keras").evaluate(
        ROW, y, return_dict=True, verbose=0
    )
    np.testing.assert_allclose(logs["clicked_loss"], np.log(2), rtol=1e-5)
    np.testing.assert_allclose(logs["loss"], np.log(2) + np.log(4) + 2.0 * 0.25, rtol=1e-5)


@pytest.mark.parametrize("balancing", [None, PCGrad(scope="features")])
def test_the_calibrator_moves_both_heads_without_a_label_and_past_the_balancing(balancing):
    model = with_probabilities(0.5, 0.75)
    model.compile(keras.optimizers.SGD(1.0), gradient_balancing=balancing)
    y = {"clicked": np.array([-1]), "bought": np.array([-1])}
    before = {name: model.get_layer(f"{name}_logits").dense.bias.numpy() for name in y}
    model.fit(ROW, y, verbose=0)
    moved = [float(model.get_layer(f"{n}_logits").dense.bias[0] - before[n][0]) for n in y]
    # The derivatives of a sigmoid at 1/2 and 3/4 are 1/4 and 3/16.
    np.testing.assert_allclose(moved, [0.6 / 4, -0.6 * 3 / 16], rtol=1e-5)


def test_the_calibrator_leaves_padding_out():
    head = CalibratedStep(BinaryClassification(pooling=None), 1.0)
    clicked = np.array([[[0.0], [0.0], [np.nan]]], "float32")
    bought = np.array([[[np.log(3)], [-1.0], [np.nan]]], "float32")
    mask = np.array([[True, True, False]])
    head([bought, clicked], mask=[mask, mask])
    np.testing.assert_allclose(head.losses, [0.25 / 2], rtol=1e-6)


def test_the_calibrator_is_finite_on_a_batch_without_rows():
    head = CalibratedStep(BinaryClassification(), 1.0)
    head([np.zeros((0, 1), "float32"), np.zeros((0, 1), "float32")])
    np.testing.assert_array_equal(head.losses, [0.0])


def test_without_calibration_any_heads_follow_each_other():
    tasks = {"clicked": BinaryClassification(), "kind": Classification(3)}
    tasks["price"] = Task(Regression(), where="clicked")
    model = aitm(tasks, keras.layers.Dense(2), calibration=0)
    model(ROW)
    assert model.losses == []
    assert type(model.get_layer("kind")) is Classification
    assert model.output["price"].shape == (None, 1)


def test_parameters_are_those_of_columns_transfers_towers_and_heads():
    trunk = [keras.layers.Conv2D(4, 3), keras.layers.Conv2D(6, 3)]
    tasks = {**steps(3), "clicked": Task(BinaryClassification(), tower=keras.layers.Dense(5))}
    model = aitm(tasks, trunk, keras.Input((8, 8, 2)))
    stages = (9 * 2 + 1) * 4 + (9 * 4 + 1) * 6
    transfer = (6 + 1) * 6 + 3 * 6 * 6
    heads = (6 + 1) * 5 + (5 + 1) + 2 * (6 + 1)
    assert model.count_params() == 3 * stages + 2 * transfer + heads


def names_of(variables):
    return {variable.path.split("/")[0] for variable in variables}


def on_users():
    user = keras.Input((), dtype="int32", name="user")
    stem = keras.layers.Embedding(9, 4, name="users")(user)
    model = aitm(steps(3), keras.layers.Dense(3), stem)
    return model, Partition(model, dict(model.output))


def test_the_features_of_a_step_are_shared_with_all_later_ones():
    model, partition = on_users()
    reached = {v.path.split("/")[0]: partition.tasks_of_variable(v) for v in model.variables}
    assert reached["users"] == reached["clicked_column"] == STEPS
    for part in ("column", "transfer", "attention"):
        assert reached[f"bought_{part}"] == STEPS[1:]
        assert reached[f"returned_{part}"] == STEPS[2:]


def test_heads_are_private_though_the_calibrator_compares_them():
    model, partition = on_users()
    private = {step: names_of(partition.private(model.variables, step)) for step in STEPS}
    assert private["clicked"] == {"clicked_logits"}
    assert private["bought"] == {"bought_logits"}


def test_sharing_ends_at_the_stem_and_at_the_features_of_each_step():
    _, partition = on_users()
    cuts = {cut._keras_history.operation.name for cut in partition.cuts}
    assert cuts == {"users", "clicked_column", "bought_attention"}


@pytest.mark.parametrize("calibration", [-0.1, float("nan"), float("inf")])
def test_the_strength_must_be_a_finite_weight(calibration):
    with pytest.raises(ValueError, match=r"`calibration` must be .* of type float\.$"):
        aitm(calibration=calibration)


def test_the_strength_must_be_a_number():
    with pytest.raises(TypeError, match="`calibration` must be a finite number >= 0"):
        aitm(calibration="strong")


def test_calibrated_heads_must_be_binary():
    tasks = {"clicked": BinaryClassification(), "price": Regression()}
    with pytest.raises(ValueError, match=r"'price' has a Regression\. Or give `calibration=0`"):
        aitm(tasks)


def test_calibrated_heads_must_be_of_one_size():
    tasks = {"clicked": BinaryClassification(), "bought": BinaryClassification(3)}
    with pytest.raises(ValueError, match="Heads of aitm must have equal `units`"):
        aitm(tasks)


def test_calibrated_steps_leave_no_rows_out():
    tasks = {**steps(1), "bought": Task(BinaryClassification(), where="clicked")}
    with pytest.raises(ValueError, match="`where` of task 'bought' must be left out in aitm"):
        aitm(tasks)


def test_a_trunk_of_several_outputs_is_refused():
    inputs = keras.Input((3,))
    trunk = keras.Model(inputs, {"small": inputs + 0.0, "large": inputs * 2.0}, name="trunk")
    with pytest.raises(ValueError, match="Stages of aitm must return one tensor each, stage 'tru"):
        aitm(trunk=trunk, inputs=keras.Input((3,)))


def test_features_without_channels_are_refused():
    with pytest.raises(ValueError, match=r"known number of channels, stage 'flat' .*\(None,\)"):
        aitm(trunk=keras.layers.Reshape((), name="flat"))
