"""How a step is executed changes no number: replicas, XLA, several steps at once, one trace."""

from conformance_support import (
    FIT,
    TASKS,
    as_reference,
    assert_same,
    assert_same_history,
    is_random,
    make_data,
    make_model,
    method_of,
    reference_run,
    values,
)

# Sums in another order; float32 keeps 1e-7, a few steps multiply it.
REORDERED = 1e-6
# XLA fuses, and approximates tanh and exp in its own way.
COMPILED = 1e-5
# Divided differences of losses magnify the rounding of what is subtracted.
DIFFERENCES = 1e-5


def test_two_replicas_equal_one_device(dear_case, strategy):
    run = reference_run(dear_case)
    with strategy.scope():
        model = make_model(dear_case, **as_reference())
    history = model.fit(*run.data, epochs=4, **FIT).history
    weighting = model._training_state.loss_weighting
    tolerance = DIFFERENCES if weighting.hypergradient == "implicit" else REORDERED
    assert_same(values(model), run.numbers, tolerance)
    assert_same_history(history, run.history, tolerance)


def test_four_steps_at_once_equal_single_steps(dear_case):
    run = reference_run(dear_case)
    model = make_model(dear_case, **as_reference(), steps_per_execution=4)
    history = model.fit(*run.data, epochs=4, **FIT).history
    assert_same_history(history, run.history, REORDERED)
    assert_same(values(model), run.numbers, REORDERED)


def test_xla_equals_the_plain_graph(dear_case):
    # XLA draws other random numbers; they make no difference to a balancing of two tasks, nor
    # to a weighting of one.
    fewer = TASKS[:1] if "loss_weighting" in dear_case() else TASKS[:2]
    tasks = fewer if is_random(method_of(dear_case())) else TASKS
    run = reference_run(dear_case, tasks)
    model = make_model(dear_case, tasks, **as_reference(), jit_compile=True)
    history = model.fit(*run.data, epochs=4, **FIT).history
    assert_same_history(history, run.history, COMPILED)
    assert_same(values(model), run.numbers, COMPILED)


def test_step_is_traced_once_whatever_changes_later(deep_case):
    run = reference_run(deep_case)
    assert run.traces.count == 1
    x, y = make_data(16)
    before = run.model.get_layer("trunk").kernel.numpy()
    run.model.loss_weights["size"] = 0.25
    run.model.stop_task("flag")
    run.model.fit(x, y, **FIT)
    run.model.resume_task("flag")
    run.model.fit(x, y, **FIT)
    assert run.traces.count == 1
    assert (run.model.get_layer("trunk").kernel.numpy() != before).any()
