"""How a step is executed changes no number: replicas, XLA, several steps at once, one trace."""

import functools

import keras
import numpy as np
from conformance_support import (
    TASKS,
    TraceCounter,
    assert_same,
    assert_same_history,
    is_random,
    make_data,
    make_model,
    method_of,
    values,
)

# Sums in another order; float32 keeps 1e-7, a few steps multiply it.
REORDERED = 1e-6
# XLA fuses, and approximates tanh and exp in its own way.
COMPILED = 1e-5
# Divided differences of losses magnify the rounding of what is subtracted.
DIFFERENCES = 1e-5
FIT = {"shuffle": False, "verbose": 0, "epochs": 3}


def test_two_replicas_equal_one_device(case, strategy):
    # 22 rows: the last batch is partial. No flag in the first replica's half of any batch.
    x, y = make_data(22)
    histories, models = [], []
    for scope in (keras.name_scope("one"), strategy.scope()):
        with scope:
            optimizer = keras.optimizers.SGD(0.1, momentum=0.5, global_clipnorm=0.5)
            model = make_model(case, penalty=0.01, optimizer=optimizer)
        histories.append(model.fit(x, y, batch_size=8, **FIT).history)
        models.append(model)
    weighting = models[0]._training_state.loss_weighting
    tolerance = DIFFERENCES if weighting.hypergradient == "implicit" else REORDERED
    assert_same(values(models[1]), values(models[0]), tolerance)
    assert_same_history(*histories, tolerance)


@functools.cache
def _plain_run(case):
    """Returns tasks, data, history, numbers, model and traces of a run step by step."""
    # XLA draws other random numbers; they make no difference to a balancing of two tasks, nor
    # to a weighting of one.
    fewer = TASKS[:1] if "loss_weighting" in case() else TASKS[:2]
    tasks = fewer if is_random(method_of(case())) else TASKS
    x, y = make_data(28, tasks)
    model = make_model(case, tasks, penalty=0.01, jit_compile=False)
    traces = TraceCounter(model)
    history = model.fit(x, y, batch_size=8, **FIT).history
    return tasks, (x, y), history, values(model), model, traces


def test_four_steps_at_once_equal_single_steps(deep_case):
    tasks, data, history, numbers, *_ = _plain_run(deep_case)
    model = make_model(deep_case, tasks, penalty=0.01, steps_per_execution=4)
    assert_same_history(model.fit(*data, batch_size=8, **FIT).history, history, REORDERED)
    assert_same(values(model), numbers, REORDERED)


def test_xla_equals_the_plain_graph(deep_case):
    tasks, data, history, numbers, *_ = _plain_run(deep_case)
    model = make_model(deep_case, tasks, penalty=0.01, jit_compile=True)
    assert_same_history(model.fit(*data, batch_size=8, **FIT).history, history, COMPILED)
    assert_same(values(model), numbers, COMPILED)


def test_step_is_traced_once_whatever_changes_later(deep_case):
    tasks, data, _, _, model, traces = _plain_run(deep_case)
    assert traces.count == 1
    before = model.get_layer("trunk").kernel.numpy()
    model.loss_weights["size"] = 0.25
    model.stop_task(tasks[-1])
    model.fit(*data, batch_size=8, **FIT)
    model.resume_task(tasks[-1])
    model.fit(*data, batch_size=8, **FIT)
    assert traces.count == 1
    assert np.any(model.get_layer("trunk").kernel.numpy() != before)
