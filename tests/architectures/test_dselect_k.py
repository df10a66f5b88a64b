import architecture_support as support
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mtl import Task
from keras_mtl.architectures import dselect_k
from keras_mtl.architectures.dselect_k import SelectingGate, smooth_step
from keras_mtl.core.partition import Partition
from keras_mtl.heads import BinaryClassification, Regression


def gate(bits, selectors=(0.0, 0.0), channels=1, **kwargs):
    """A gate with these weights: a row for each channel, then the constants."""
    layer = SelectingGate(**kwargs)
    layer.build((None, channels))
    layer.bit_weights.assign(np.atleast_2d(bits))
    layer.selector_weights.assign(np.broadcast_to(selectors, layer.selector_weights.shape))
    return layer


def static(bits, selectors=(0.0, 0.0), **kwargs):
    return gate(bits, selectors, per_example=False, **{"num_experts": 4, "k": 2, **kwargs})


def weights_of(layer, rows=1):
    return np.asarray(layer(np.ones((rows, 1), "float32")))


def test_the_smooth_step_is_a_cubic_between_0_and_1():
    t = np.array([-1e10, -1.0, -0.5, 0.0, 0.5, 1.0, 1e10], "float32")
    # With gamma = 2: -t^3 / 4 + 3 t / 4 + 1/2, so at 1/2: -1/32 + 3/8 + 1/2.
    expected = [0.0, 0.0, 0.15625, 0.5, 0.84375, 1.0, 1.0]
    np.testing.assert_array_equal(smooth_step(t, 2.0), np.array(expected, "float32"))


def test_the_smooth_step_is_flat_at_both_ends():
    t = tf.constant([-0.5, 0.0, 0.5])
    with tf.GradientTape() as tape:
        tape.watch(t)
        steps = smooth_step(t, 1.0)
    np.testing.assert_array_equal(tape.gradient(steps, t), [0.0, 1.5, 0.0])  # 3 / (2 gamma)


def test_selectors_read_the_bits_of_an_expert_and_share_the_weight():
    # The first has the bits (1, 0), expert 2; the second (0, 27/32), experts 0 and 1.
    layer = static([0.5, -0.5, -0.5, 0.25], selectors=[np.log(3.0), 0.0])
    expected = [0.25 * 5 / 32, 0.25 * 27 / 32, 0.75, 0.0]
    np.testing.assert_allclose(weights_of(layer, 2), [expected] * 2, rtol=1e-6)


def test_examples_select_for_themselves():
    bits = [[0.5, 0.5], [0.0, 0.0]]  # both bits are S(x / 2)
    layer = gate(bits, 0.0, num_experts=4, k=1)
    found = layer(np.array([[1.0], [-1.0], [0.0]], "float32"))
    np.testing.assert_array_equal(found, [[0, 0, 0, 1], [1, 0, 0, 0], [0.25] * 4])


def test_a_decided_gate_gives_at_most_k_experts_a_weight_and_all_of_it():
    random = np.random.default_rng(0)
    bits = random.choice([-0.5, 0.5], size=(5, 3 * 3))
    layer = gate(bits, random.normal(size=(5, 3)), channels=4, num_experts=8, k=3)
    found = np.asarray(layer(np.eye(4, dtype="float32") * 3))  # 3: past the constants
    assert np.all(np.count_nonzero(found, axis=1) <= 3)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-6)


def test_the_entropy_is_that_of_each_selector():
    layer = static([0.5, -0.5, -0.5, 0.25], entropy_regularization=10.0)
    weights_of(layer, 3)
    p = np.array([5, 27]) / 32
    np.testing.assert_allclose(layer.losses, [-10 * np.sum(p * np.log(p))], rtol=1e-5)


def test_codes_without_expert_are_penalised():
    # Three experts of four codes: the first selector gives them 3/4, the second all.
    layer = static([0.0, 0.0, -0.5, 0.0], num_experts=3, entropy_regularization=0.0)
    found = weights_of(layer)
    np.testing.assert_allclose(found, [[3 / 8, 3 / 8, 1 / 8]], rtol=1e-6)
    np.testing.assert_allclose(layer.losses, [4 / 3 - 1], rtol=1e-6)


def test_the_penalty_stays_finite_where_no_expert_is_left():
    layer = static([0.5, 0.5, 0.49, 0.49], num_experts=3, entropy_regularization=0.0)
    with tf.GradientTape() as tape:
        found = weights_of(layer)
        (penalty,) = layer.losses
    # The second selector is all but there, and is still pulled back.
    gradient = tape.gradient(penalty, layer.bit_weights.value).numpy()
    assert found.max() < 1e-3
    assert 300 < penalty < 2 * (2 / 0.01 - 1)
    assert np.all(gradient[0, 2:] > 1.0)
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e10])
def test_weights_and_gradients_are_finite_at_every_scale(scale):
    layer = SelectingGate(num_experts=5, k=2)
    x = tf.constant(np.random.default_rng(0).normal(size=(16, 3)) * scale, "float32")
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(tf.square(layer(x))) + sum(layer.losses)
    gradients = tape.gradient(total, [v.value for v in layer.trainable_variables])
    assert all(np.all(np.isfinite(value)) for value in [total, *gradients])


@pytest.mark.parametrize("per_example", [True, False])
def test_a_batch_without_rows_adds_a_finite_loss(per_example):
    layer = SelectingGate(num_experts=3, per_example=per_example)
    assert layer(np.zeros((0, 4), "float32")).shape == (0, 3)
    assert all(np.isfinite(loss) for loss in layer.losses)


def test_a_mask_of_what_gates_read_is_passed_on():
    rows = keras.layers.Embedding(3, 2, mask_zero=True)(np.array([1, 0]))
    found = SelectingGate(num_experts=2, k=1)(rows)
    np.testing.assert_array_equal(found._keras_mask, [True, False])


@pytest.mark.parametrize("per_example", [True, False])
def test_regularisers_alone_train_the_gates(per_example):
    tasks = {name: Task(BinaryClassification(), loss_weight=0.0) for name in ("a", "b")}
    options = {"num_experts": 3, "entropy_regularization": 1.0, "per_example": per_example}
    model = dselect_k(keras.Input((2,)), keras.layers.Dense(3), tasks, **options)
    # Two examples, neither of which sits where nothing decides.
    x, y = np.array([[1.0, 0.5], [0.5, 1.0]], "float32"), np.zeros(2)
    gates = keras.Model(model.input, [model.get_layer(f"{task}_gate").output for task in tasks])
    assert np.max(np.asarray(gates(x)).sum(axis=-1)) < 0.8  # a fourth of each has no expert
    assert float(sum(model.losses)) > 4  # two gates, two selectors each, log 4 and more
    model.compile(keras.optimizers.SGD(0.05))
    model.fit(tf.data.Dataset.from_tensors((x, {"a": y, "b": y})).repeat(60), verbose=0)
    after = np.asarray(gates(x))
    assert np.all(np.count_nonzero(after, axis=-1) <= 2)
    np.testing.assert_allclose(after.sum(axis=-1), 1.0, rtol=1e-6)
    assert float(sum(model.losses)) < 1e-5


def test_a_task_reads_the_experts_that_its_gate_selects():
    tasks = {"a": Regression(kernel_initializer="ones"), "b": Regression(kernel_initializer="ones")}
    trunk = keras.layers.Dense(1, use_bias=False)
    model = dselect_k(keras.Input((1,)), trunk, tasks, per_example=False)
    model.get_layer("experts").kernels[0].assign([[[1.0]], [[10.0]], [[100.0]], [[1000.0]]])
    for task, bits in {"a": [0.5, -0.5, -0.5, 0.5], "b": [0.5, 0.5, 0.5, 0.5]}.items():
        model.get_layer(f"{task}_gate").bit_weights.assign([bits])
        model.get_layer(f"{task}_gate").selector_weights.assign([[0.0, 0.0]])
    predictions = model(np.array([[1.0], [2.0]]))
    np.testing.assert_allclose(predictions["a"], [[55.0], [110.0]], rtol=1e-6)
    np.testing.assert_allclose(predictions["b"], [[1000.0], [2000.0]], rtol=1e-6)


@pytest.mark.parametrize(("per_example", "rows"), [(True, 2 + 1), (False, 1)])
def test_parameters_are_those_of_experts_gates_and_heads(per_example, rows):
    trunk = keras.layers.Conv2D(4, 3)
    tasks = {"a": Regression(), "b": Regression(2)}
    options = {"num_experts": 5, "k": 3, "per_example": per_example}
    model = dselect_k(keras.Input((8, 8, 2)), trunk, tasks, **options)
    experts, heads = 5 * (9 * 2 + 1) * 4, (4 + 1) * (1 + 2)
    assert model.count_params() == experts + 2 * rows * 3 * (3 + 1) + heads  # 3 bits for 5


@pytest.mark.parametrize("kind", ["dense", "convolutional"])
def test_experts_are_shared_up_to_their_outputs_and_gates_are_not(kind):
    model = support.build("dselect_k", kind, num_experts=2)
    partition = Partition(model, dict(model.output))
    variables = model.trainable_variables
    ends = {"dense": ["experts"], "convolutional": ["expert_0_stage2", "expert_1_stage2"]}
    assert [cut._keras_history.operation.name for cut in partition.cuts] == ends[kind]
    assert all(v.path.startswith("expert") for v in partition.shared(variables))
    own = {v.path.split("/")[0] for v in partition.private(variables, "first")}
    assert own == {"first_gate", "first_tower", "first"}
    assert len(partition.private(variables, "second")) == 2 + 2


def test_gates_are_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        layer = support.build("dselect_k").get_layer("first_gate")
    finally:
        keras.config.set_dtype_policy("float32")
    assert layer.is_gate
    assert layer.output.dtype == layer.compute_dtype == "float32"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_experts": 0}, "`num_experts` must be an integer >= 1"),
        ({"num_experts": 1}, "`num_experts` must be an integer >= 2 for gates that select, rec"),
        ({"k": 0}, "`k` must be an integer >= 1"),
        ({"k": 5}, "`k` must be at most `num_experts`, 4, received 5"),
        ({"gamma": 0.0}, "`gamma` must be a finite number > 0"),
        (
            {"entropy_regularization": -1.0},
            r"`entropy_regularization` must be .* >= 0, .* float\.$",
        ),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        support.build("dselect_k", **options)


def test_gates_of_token_ids_are_refused():
    inputs = keras.Input((3,), dtype="int32", name="ids")
    trunk = [keras.layers.Embedding(9, 4), keras.layers.Flatten()]
    with pytest.raises(ValueError, match="Gates read numbers, input 'ids' holds int32"):
        dselect_k(inputs, trunk, {"a": Regression()})
