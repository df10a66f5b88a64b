"""What builders refuse, and what they say; mostly `hard_sharing` stands for all of them."""

import inspect

import architecture_support as support
import keras
import pytest

from keras_mtl import Task, architectures
from keras_mtl.architectures import hard_sharing
from keras_mtl.heads import Classification, Regression


def build(tasks, trunk=None, inputs=None):
    inputs = keras.Input((3,), name="x") if inputs is None else inputs
    return hard_sharing(inputs, trunk or keras.layers.Dense(4, name="trunk"), tasks)


def two_outputs(kind):
    inputs = keras.Input((3,), name="trunk_input")
    small, large = keras.layers.Dense(2)(inputs), keras.layers.Dense(4)(inputs)
    outputs = {"small": small, "large": large} if kind is dict else [small, large]
    return keras.Model(inputs, outputs, name="trunk")


@pytest.mark.parametrize("tasks", [[Regression()], Regression(), None])
def test_tasks_must_be_a_dict(tasks):
    with pytest.raises(TypeError, match="`tasks` must be a dict from task name to a head or"):
        build(tasks)


def test_tasks_must_not_be_empty():
    with pytest.raises(ValueError, match="`tasks` must have at least one entry"):
        build({})


def test_a_task_must_be_a_task_or_a_head():
    with pytest.raises(TypeError, match=r"A task must be a `keras_mtl\.Task` or a head"):
        build({"a": "regression"})


@pytest.mark.parametrize("name", ["", "a/b", "a b", "_a", "é", 3])
def test_task_names_must_be_names_of_layers(name):
    with pytest.raises(ValueError, match="task name must be a string of letters, digits"):
        build({name: Regression()})


def test_task_names_must_not_look_like_validation():
    with pytest.raises(ValueError, match="must not start with 'val_'"):
        build({"val_age": Regression()})


def test_a_task_without_head_is_refused():
    with pytest.raises(ValueError, match="Task 'a' has no head"):
        build({"a": Task(loss_weight=0.5)})


def test_a_plain_layer_without_loss_is_refused():
    with pytest.raises(ValueError, match="Task 'a' has no loss: its head is a Dense"):
        build({"a": keras.layers.Dense(1)})


@pytest.mark.parametrize("where", ["a", "c"])
def test_where_must_name_another_task(where):
    with pytest.raises(ValueError, match="`where` of task 'a' must"):
        build({"a": Task(Regression(), where=where), "b": Regression()})


@pytest.mark.parametrize("name", ["x", "trunk"])
def test_a_task_must_not_have_the_name_of_an_input_or_layer(name):
    with pytest.raises(ValueError, match=f"Task '{name}' has the name of an input or another lay"):
        build({name: Regression()})


def test_two_layers_must_not_have_one_name():
    trunk = [keras.layers.Dense(2, name="body"), keras.layers.Dense(2, name="body")]
    with pytest.raises(ValueError, match=r"Two layers .* named 'body' \(Dense and Dense\)"):
        build({"a": Regression()}, trunk)


@pytest.mark.parametrize("inputs", [[[1.0, 2.0]], "x", keras.KerasTensor((None, 3))])
def test_inputs_must_be_tensors_of_a_graph(inputs):
    with pytest.raises(TypeError, match="`inputs` must be Keras tensors"):
        build({"a": Regression()}, inputs=inputs)


@pytest.mark.parametrize("structure", [list, dict])
def test_a_trunk_that_cannot_take_the_inputs_is_named(structure):
    inputs = [keras.Input((2,), name="left"), keras.Input((3,), name="right")]
    inputs = {x.name: x for x in inputs} if structure is dict else inputs
    with pytest.raises(ValueError, match=r"Stage 'trunk' of `trunk` cannot take .*\(None, 3\)"):
        build({"a": Regression()}, inputs=inputs)


def test_a_trunk_that_returns_a_list_is_refused():
    with pytest.raises(ValueError, match="'trunk' of `trunk` returns 2 tensors in a list"):
        build({"a": Regression()}, two_outputs(list))


def test_several_features_ask_for_a_choice():
    with pytest.raises(
        ValueError, match=r"Task 'a' must choose its features.*\['small', 'large'\]"
    ):
        build({"a": Regression()}, two_outputs(dict))


@pytest.mark.parametrize("features", ["smal", ["large", "smal"]])
def test_unknown_features_suggest_the_nearest(features):
    with pytest.raises(ValueError, match=r"'smal', which the trunk does not return.*'small'\?"):
        build({"a": Task(Regression(), features=features)}, two_outputs(dict))


def test_a_choice_from_one_tensor_is_refused():
    with pytest.raises(ValueError, match="chooses the features 's4', but the trunk returns one"):
        build({"a": Task(Regression(), features="s4")})


def test_an_unknown_mask_suggests_the_nearest():
    inputs = keras.Input((None, 3), name="frames")
    with pytest.raises(ValueError, match=r"its mask 'frame' is neither .* Did you mean 'frames'"):
        build({"a": Task(Regression(), mask="frame")}, inputs=inputs)


def test_a_mask_over_features_without_steps_is_refused():
    mask = keras.Input((None,), name="mask")
    inputs = {"x": keras.Input((3,), name="x"), "mask": mask}
    with pytest.raises(ValueError, match=r"(?s)its mask 'mask' cannot take .* needs features"):
        build({"a": Task(Regression(), mask="mask")}, inputs=inputs)


def test_a_head_that_cannot_take_the_features_names_its_task():
    tasks = {"a": Task(Regression(), features=["small", "large"])}
    with pytest.raises(ValueError, match="Task 'a': its head Regression cannot take features of"):
        build(tasks, two_outputs(dict))


def test_a_tower_that_cannot_take_the_features_names_its_task():
    tasks = {"a": Task(Classification(3), tower=keras.layers.Conv2D(2, 3))}
    with pytest.raises(ValueError, match=r"'a': its tower Conv2D cannot take .*\(None, 4\)"):
        build(tasks)


def test_a_tower_for_a_list_of_features_hears_of_the_dict():
    tower = keras.layers.Concatenate()
    tasks = {"a": Task(Regression(), features=["small", "large"], tower=tower)}
    with pytest.raises(ValueError, match=r"features come in a dict by name. Reason: KeyError\(0\)"):
        build(tasks, two_outputs(dict))


def test_a_head_that_cannot_be_rebuilt_is_named():
    head = keras.layers.Lambda(lambda x: x, name="odd")
    with pytest.raises(ValueError, match="Layer 'odd' of type Lambda cannot be rebuilt"):
        build({"a": Task(head, loss="mse")})


@pytest.mark.parametrize("name", support.BUILDERS)
@pytest.mark.parametrize("trunk", [None, "resnet", keras.layers.Dense, lambda x: x])
def test_what_is_no_trunk_is_refused(name, trunk):
    with pytest.raises(TypeError, match="`trunk` must be a layer, a model, a list of layers, or"):
        architectures.build_model(name, keras.Input((6,)), trunk, support.tasks())


@pytest.mark.parametrize(
    ("name", "option"),
    [
        (name, option)
        for name in support.BUILDERS
        for option, parameter in inspect.signature(architectures.get(name)).parameters.items()
        if isinstance(parameter.default, bool)
    ],
)
def test_an_option_that_is_yes_or_no_is_nothing_else(name, option):
    with pytest.raises(ValueError, match=rf"`{option}` must be one of \[False, True\], received"):
        support.build(name, **{option: "no"})
