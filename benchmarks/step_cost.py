"""Measures the cost of a training step as a ratio to plain Keras, interleaved in one process.

Every method is timed in pairs with a plain `keras.Model` of the same network, losses and batch:
a block of steps of one, a block of the other, in turn. The ratio printed is the median over the
pairs, with its 95 % confidence interval (by order statistics); machines are noisy and single
timings mean little. `plain` measures a second plain model, which tells how far from 1.00 noise
alone gets.

    python benchmarks/step_cost.py
    python benchmarks/step_cost.py --tasks 4 --methods plain uncertainty mgda:features
    python benchmarks/step_cost.py --methods mgda:parameters:4
    python benchmarks/step_cost.py --network mlp --batch 32 --tasks 2 8 --methods mgda:parameters
    python benchmarks/step_cost.py --solvers --tasks 2 8 64

A balancing is named with its scope and, as the third part, `refresh_every`. `--solvers` times the
search for the weights of random gradients alone, as a graph, in microseconds.
"""

import argparse
import functools
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import keras_mtl

BATCH, CLASSES = 256, 10
PLAIN = "plain"


def lenet(inputs: keras.KerasTensor) -> keras.KerasTensor:
    """The trunk of Sener and Koltun's MultiMNIST experiment."""
    x = keras.layers.Conv2D(10, 5, activation="relu")(inputs)
    x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.Conv2D(20, 5, activation="relu")(x)
    x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.Flatten()(x)
    return keras.layers.Dense(50, activation="relu")(x)


def mlp(inputs: keras.KerasTensor) -> keras.KerasTensor:
    """Two wide dense layers."""
    x = keras.layers.Flatten()(inputs)
    x = keras.layers.Dense(512, activation="relu")(x)
    return keras.layers.Dense(512, activation="relu")(x)


NETWORKS = {"lenet": lenet, "mlp": mlp}


def build(cls: type, network: str, num_tasks: int, **roles: object) -> keras.Model:
    """Builds the network with one head of 50-50-10 a task; `roles` go to the model."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((28, 28, 1), name="image")
    features = NETWORKS[network](inputs)
    outputs = {}
    for index in range(num_tasks):
        hidden = keras.layers.Dense(50, activation="relu")(features)
        outputs[f"task{index}"] = keras.layers.Dense(CLASSES, activation="softmax")(hidden)
    return cls(inputs, outputs, **roles)


def batches(num_tasks: int, batch: int) -> Iterator:
    """Returns an endless iterator over one batch, so that the input costs nothing."""
    random = np.random.default_rng(0)
    images = random.random((batch, 28, 28, 1), "float32")
    labels = {f"task{i}": random.integers(0, CLASSES, batch) for i in range(num_tasks)}
    return iter(tf.data.Dataset.from_tensors((images, labels)).cache().repeat().prefetch(4))


def stepper(
    model: keras.Model, num_tasks: int, batch: int = BATCH, *, jit_compile: bool, **methods: object
) -> Callable:
    """Compiles the model and returns a function that runs a number of steps."""
    losses = {f"task{i}": "sparse_categorical_crossentropy" for i in range(num_tasks)}
    metrics = dict.fromkeys(losses, "sparse_categorical_accuracy")
    optimizer = keras.optimizers.Adam(1e-4)
    model.compile(optimizer, loss=losses, metrics=metrics, jit_compile=jit_compile, **methods)
    return runner(model, batches(num_tasks, batch))


def runner(model: keras.Model, iterator: Iterator) -> Callable[[int], float]:
    """Returns a function that times a number of steps of a compiled model, in seconds."""
    model.make_train_function()

    def run(steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            logs = model.train_function(iterator)
        float(logs["loss"])
        return time.perf_counter() - start

    run(3)  # traces and compiles
    return run


def parse_method(text: str) -> dict[str, object]:
    """Turns `weighting`, or `balancing:scope[:refresh_every]`, into arguments of `compile`."""
    if text in keras_mtl.weighting.names():
        return {"loss_weighting": text}
    return {"gradient_balancing": parse_balancing(text)}


def parse_balancing(text: str) -> keras_mtl.balancing.GradientBalancing:
    """Turns `balancing[:scope[:refresh_every]]` into the method."""
    name, *parts = text.split(":")
    if len(parts) > 2:
        raise ValueError(f"A balancing is name[:scope[:refresh_every]], received {text!r}.")
    options = {"scope": parts[0] if parts else "parameters"}
    options |= {"refresh_every": int(parts[1])} if len(parts) > 1 else {}
    return type(keras_mtl.balancing.get(name))(**options)


def roles_for(arguments: dict[str, object], num_tasks: int) -> dict[str, object]:
    """Makes all tasks but the first auxiliary, for a method that needs auxiliary tasks."""
    weighting = keras_mtl.weighting.get(arguments.get("loss_weighting"))
    if not weighting.needs_auxiliary_tasks:
        return {}
    return {"tasks": {f"task{i}": keras_mtl.Task(auxiliary=True) for i in range(1, num_tasks)}}


def measure(
    network: str,
    num_tasks: int,
    methods: list[str],
    pairs: int,
    steps: int,
    *,
    batch: int = BATCH,
    jit_compile: bool,
) -> dict[str, list[float]]:
    """Returns the ratios to plain Keras, a list of pairs for each method."""
    model = build(keras.Model, network, num_tasks)
    plain = stepper(model, num_tasks, batch, jit_compile=jit_compile)
    print(f"\n{network}, {num_tasks} tasks, batch {batch}: ", end="", flush=True)
    print(f"plain Keras {1000 * plain(20) / 20:.1f} ms a step", flush=True)
    found = {}
    for method in methods:
        cls = keras.Model if method == PLAIN else keras_mtl.MultiTaskModel
        arguments = {} if method == PLAIN else parse_method(method)
        model = build(cls, network, num_tasks, **roles_for(arguments, num_tasks))
        own = stepper(model, num_tasks, batch, jit_compile=jit_compile, **arguments)
        found[method] = ratios = paired_ratios(own, plain, pairs, steps)
        low, high = median_interval(ratios)
        bound = limit(method, num_tasks)
        verdict = "" if bound is None else f"  (limit {bound:.2f})"
        median = statistics.median(ratios)
        print(f"  {method:34s} {median:6.3f}  [{low:.3f}, {high:.3f}]{verdict}", flush=True)
    return found


def paired_ratios(own: Callable, plain: Callable, pairs: int, steps: int) -> list[float]:
    """Times two functions of a number of steps in turn; returns own over plain, pair by pair."""
    ratios = []
    for pair in range(pairs):
        # Which of the two goes first changes from pair to pair.
        order = [plain, own] if pair % 2 else [own, plain]
        times = {run: run(steps) for run in order}
        ratios.append(times[own] / times[plain])
    return ratios


def median_interval(values: list[float]) -> tuple[float, float]:
    """Returns the 95 % confidence interval of the median: ranks n / 2 -+ 0.98 sqrt(n)."""
    ranked = sorted(values)
    middle, width = len(ranked) / 2, 0.98 * math.sqrt(len(ranked))
    return ranked[max(0, int(middle - width))], ranked[min(len(ranked) - 1, int(middle + width))]


def limit(method: str, num_tasks: int) -> float | None:
    """Returns the ratio a method is to stay under, or `None` for those with their own figure."""
    if method == PLAIN:
        return None
    name, *parts = method.split(":")
    if not parts and name in keras_mtl.weighting.names():
        weighting = keras_mtl.weighting.get(name)
        extra_passes = weighting.needs_fresh_losses or weighting.hypergradient is not None
        return None if extra_passes else 1.03
    if len(parts) > 1:
        return None
    return 1.15 if parts == ["features"] else (1 + 2 * num_tasks) / 3 * 1.1


def all_methods() -> list[str]:
    """Lists every exported weighting, and every balancing in both scopes."""
    scoped = [
        f"{name}:{scope}"
        for name in keras_mtl.balancing.names()
        for scope in ("parameters", "features")
        if scope == "parameters" or keras_mtl.balancing.get(name).features_reason is None
    ]
    return [PLAIN, *keras_mtl.weighting.names(), *scoped]


def solver_times(num_tasks: int, repeats: int = 200) -> dict[str, float]:
    """Returns the median microseconds in which each method finds the weights of a Gramian."""
    rows = np.random.default_rng(0).normal(size=(num_tasks, 4 * num_tasks)).astype("float32")
    gramian, losses = tf.constant(rows @ rows.T), tf.ones(num_tasks)
    found = {}
    for name in keras_mtl.balancing.names():
        method = keras_mtl.balancing.get(name)
        if not isinstance(method, keras_mtl.balancing.GramianBalancing):
            continue
        method.build_for(num_tasks)
        more = {"losses": losses} if method.needs_losses else {}
        solve = tf.function(functools.partial(method.compute_weights, gramian, **more))
        solve()
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            solve()
            times.append(time.perf_counter() - start)
        found[name] = 1e6 * statistics.median(times)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=list(NETWORKS), default="lenet")
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--methods", nargs="+", default=all_methods())
    parser.add_argument("--pairs", type=int, default=200, help="pairs a method (at least 2)")
    parser.add_argument("--steps", type=int, default=3, help="steps a block")
    parser.add_argument("--batch", type=int, default=BATCH, help="rows of a batch")
    parser.add_argument("--jit-compile", action="store_true")
    parser.add_argument("--solvers", action="store_true", help="time the solvers alone")
    args = parser.parse_args()
    if args.solvers:
        for num_tasks in args.tasks:
            print(f"\n{num_tasks} tasks")
            for name, microseconds in solver_times(num_tasks).items():
                print(f"  {name:34s} {microseconds:8.0f} us")
        return
    for num_tasks in args.tasks:
        measure(
            args.network,
            num_tasks,
            args.methods,
            args.pairs,
            args.steps,
            batch=args.batch,
            jit_compile=args.jit_compile,
        )


if __name__ == "__main__":
    main()
