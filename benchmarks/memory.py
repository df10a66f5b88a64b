"""Measures what a training step needs in memory beyond plain Keras, in gradients of the trunk.

    python benchmarks/memory.py --tasks 2 4 8
    python benchmarks/memory.py --tasks 4 --methods mgda:parameters moco:parameters

Each method takes a few steps on a wide network in a process of its own; the peak of the resident
memory is compared with that of plain Keras. Printed is the difference, divided by the size of one
gradient of the shared variables. Methods are named as in `step_cost.py`.
"""

import argparse
import os
import resource
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import step_cost

import keras_mtl

WIDTH, LAYERS, BATCH = 2048, 8, 32


def gradient_mb() -> float:
    """Returns the size of one gradient of the trunk in MB."""
    return 4 * LAYERS * WIDTH * (WIDTH + 1) / 2**20


def build(cls: type, num_tasks: int, **roles: object) -> keras.Model:
    """Builds a trunk of equal dense layers and one small head a task."""
    inputs = features = keras.Input((WIDTH,))
    for _ in range(LAYERS):
        features = keras.layers.Dense(WIDTH, activation="relu")(features)
    outputs = {f"task{i}": keras.layers.Dense(1)(features) for i in range(num_tasks)}
    return cls(inputs, outputs, **roles)


def train(method: str, num_tasks: int) -> None:
    """Takes three steps and prints the peak of the resident memory in MB."""
    plain = method == step_cost.PLAIN
    arguments = {} if plain else step_cost.parse_method(method)
    cls = keras.Model if plain else keras_mtl.MultiTaskModel
    model = build(cls, num_tasks, **step_cost.roles_for(arguments, num_tasks))
    # Plain descent: an optimizer with slots would hide the gradients behind its own memory.
    losses = {f"task{i}": "mse" for i in range(num_tasks)}
    model.compile(keras.optimizers.SGD(1e-4), losses, **arguments)
    x = keras.random.normal((BATCH, WIDTH), seed=0)
    y = {f"task{i}": keras.random.normal((BATCH, 1), seed=1) for i in range(num_tasks)}
    for _ in range(3):
        model.train_on_batch(x, y)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)


def peak(method: str, num_tasks: int) -> float:
    """Returns the peak in MB, of a process of its own."""
    command = [sys.executable, __file__, "--train", method, "--tasks", str(num_tasks)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise RuntimeError(f"{method} with {num_tasks} tasks failed:\n{done.stderr[-3000:]}")
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--methods", nargs="+", default=step_cost.all_methods()[1:])
    parser.add_argument("--train", metavar="METHOD", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        train(args.train, args.tasks[0])
        return
    for num_tasks in args.tasks:
        plain = peak(step_cost.PLAIN, num_tasks)
        print(f"\n{num_tasks} tasks: plain Keras {plain:.0f} MB, a gradient {gradient_mb():.0f} MB")
        for method in args.methods:
            more = (peak(method, num_tasks) - plain) / gradient_mb()
            print(f"  {method:34s} {more:+6.2f} gradients", flush=True)


if __name__ == "__main__":
    main()
