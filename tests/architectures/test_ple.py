import architecture_support as support
import keras
import numpy as np
import pytest

from keras_mtl import Task
from keras_mtl.architectures import cgc, ple
from keras_mtl.core.partition import Partition
from keras_mtl.heads import Regression


def linear(name):
    return keras.layers.Dense(1, use_bias=False, name=name)


def put(model, layer, kernel):
    model.get_layer(layer).weights[0].assign(kernel)


def test_levels_read_what_gates_took_of_the_level_before():
    head = Regression(kernel_initializer="ones")
    tasks, trunk = {"a": head, "b": head}, [linear("stage1"), linear("stage2")]
    one = {"num_shared_experts": 1, "num_task_experts": 1}
    model = ple(keras.Input((2,)), trunk, tasks, **one)
    # Level 0, on x = (1, 2): the expert of a returns 1, that of b 2, the shared one 3.
    kernels = {"a": (1, 0), "b": (0, 1), "shared": (1, 1)}
    # Even gates take 2 for a and 2.5 for b; the shared gate (1/2, 1/4, 1/4) takes 1.75.
    gates = {"a": np.zeros((2, 2)), "b": np.zeros((2, 2))}
    gates["shared"] = [[np.log(2.0), 0.0, 0.0], [0.0, 0.0, 0.0]]
    for owner, kernel in kernels.items():
        put(model, f"level_0_{owner}_experts", np.reshape(kernel, (1, 2, 1)))
        put(model, f"level_0_{owner}_gate", gates[owner])
    # Level 1: a makes 10 of 2, b 100 of 2.5, the shared expert 7 of 1.75.
    for owner, factor in {"a": 5, "b": 40, "shared": 4}.items():
        put(model, f"level_1_{owner}_experts", [[[factor]]])
    # Gates on 2 and 2.5: (1/4, 3/4) for a, (4/5, 1/5) for b.
    put(model, "level_1_a_gate", [[0.0, np.log(3.0) / 2]])
    put(model, "level_1_b_gate", [[np.log(4.0) / 2.5, 0.0]])
    predictions = support.predictions(model, np.array([[1.0, 2.0]]))
    np.testing.assert_allclose(predictions["a"], [[0.25 * 10 + 0.75 * 7]], rtol=1e-6)
    np.testing.assert_allclose(predictions["b"], [[0.8 * 100 + 0.2 * 7]], rtol=1e-6)


@pytest.mark.parametrize("kind", ["dense", "convolutional"])
@pytest.mark.parametrize("form", ["layer", "list"])
def test_one_level_is_cgc(kind, form):
    inputs = keras.Input(support.SHAPES[kind])
    stage = support.stages(kind)[0]
    trunk = stage if form == "layer" else [stage]
    model = ple(inputs, trunk, support.tasks())
    other = cgc(inputs, trunk, support.tasks())
    assert [layer.name for layer in model.layers] == [layer.name for layer in other.layers]
    other.set_weights(model.get_weights())
    x = keras.random.normal((3, *support.SHAPES[kind]))
    for task, expected in support.predictions(other, x).items():
        np.testing.assert_allclose(support.predictions(model, x)[task], expected, rtol=1e-6)


def test_parameters_are_as_documented_of_dense_stages():
    model = support.build("ple", num_shared_experts=3, num_task_experts=2)
    trunk = (6 + 1) * 8 + (8 + 1) * 7 + (7 + 1) * 6
    task_gates = 2 * (6 + 8 + 7) * (2 + 3)
    shared_gates = (6 + 8) * (2 * 2 + 3)
    towers_and_heads = (6 + 1) * 5 + (5 + 1) + (6 + 1)
    expected = (3 + 2 * 2) * trunk + task_gates + shared_gates + towers_and_heads
    assert model.count_params() == expected


def test_parameters_are_as_documented_of_convolutions():
    model = support.build("ple", "convolutional", num_shared_experts=1, num_task_experts=1)
    trunk = (2 * 9 + 1) * 4 + 4 * 4 + (4 * 9 + 1) * 6 + 4 * 6
    gates = 2 * (2 + 4) * 2 + 2 * 3
    assert model.count_params() == 3 * trunk + gates + (6 + 1) * 5 + (5 + 1) + (6 + 1)


def two_features(units, names, name):
    """A stage that returns a dict of two features, and reads the tensors of these names."""
    inputs = {key: keras.Input((3,), name=key) for key in names}
    read = sum(inputs.values())
    outputs = {key: keras.layers.Dense(units)(read) for key in ("small", "large")}
    return keras.Model(inputs, outputs, name=name)


def test_levels_may_pass_on_features_by_name():
    trunk = [two_features(3, ["x"], "stage1"), two_features(2, ["small", "large"], "stage2")]
    tasks = {key: Task(Regression(), features=key) for key in ("small", "large")}
    model = ple({"x": keras.Input((3,), name="x")}, trunk, tasks)
    # Gates of level 1 read both features, of 3 channels each.
    experts = 4 * (2 * (3 + 1) * 3 + 2 * (3 + 1) * 2)
    gates = 2 * 3 * 3 + 3 * 4 + 2 * 6 * 3
    assert model.count_params() == experts + gates + 2 * (2 + 1)
    assert {output.shape for output in model.output.values()} == {(None, 1)}


def test_own_experts_are_shared_below_the_last_level_through_the_shared_gate():
    model = support.build("ple")  # three levels
    partition = Partition(model, dict(model.output))
    variables = model.trainable_variables
    shared = {v.path.split("/")[0] for v in partition.shared(variables)}
    owners = ("first", "second", "shared")
    below = {f"level_{i}_{owner}_experts" for i in (0, 1) for owner in owners}
    gates = {f"level_0_{owner}_gate" for owner in owners} | {"level_1_shared_gate"}
    assert shared == below | gates | {"level_2_shared_experts"}
    private = {v.path.split("/")[0] for v in partition.private(variables, "second")}
    assert private == {"level_1_second_gate", "level_2_second_experts", "level_2_second_gate"} | {
        "second"
    }


def test_sharing_ends_at_what_is_read_by_one_task():
    model = support.build("ple", "convolutional", num_shared_experts=1)
    partition = Partition(model, dict(model.output))
    cuts = {cut._keras_history.operation.name for cut in partition.cuts}
    below = {f"level_0_{owner}_expert_0" for owner in ("first", "second", "shared")}
    assert cuts == below | {"level_1_shared_expert_0"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_shared_experts": True}, TypeError, "`num_shared_experts` must be an integer >= 1"),
        ({"num_task_experts": 0}, ValueError, "`num_task_experts` must be an integer >= 1"),
        ({"temperature": "1"}, TypeError, "`temperature` must be a finite number > 0"),
    ],
)
def test_wrong_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        support.build("ple", **options)


def test_a_task_named_as_what_is_shared_is_refused():
    with pytest.raises(ValueError, match="A task must not be named 'shared'"):
        ple(keras.Input((2,)), linear("trunk"), {"shared": Regression()})


def test_a_stage_that_does_not_fit_the_one_before_is_named():
    trunk = [linear("stage1"), keras.layers.Conv2D(2, 3, name="stage2")]
    with pytest.raises(ValueError, match=r"(?s)'level_1_a_expert_0' .* cannot take .*\(None, 1\)"):
        ple(keras.Input((2,)), trunk, {"a": Regression()})
