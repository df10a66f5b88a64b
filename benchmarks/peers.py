"""Measures a training step side by side with the same method in TorchJD and LibMTL.

    python benchmarks/peers.py --torch-python torch-environment/bin/python
    python benchmarks/peers.py --torch-python ... --tasks 2 4 8 --methods mgda upgrad:parameters

`--torch-python` is the interpreter of an environment with the peers, which this project does not
need: `pip install torch "torchjd[nash_mtl]" qpsolvers quadprog`, `pip install --no-deps LibMTL`.

Four programs take blocks of steps in turn: this package, plain Keras, the peer and plain PyTorch,
with the same network, batch, losses, metrics, optimizer and number of threads. Printed are medians
over the rounds: milliseconds a step, each with its ratio to the plain step of its own framework,
and how many times faster than the peer this package is, with the 95 % interval of the median. What
a peer cannot run is named with its error.
"""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import peers_methods
import step_cost

import keras_mtl

WORKER = pathlib.Path(__file__).with_name("peers_torch.py")


class Peer:
    """A program of the PyTorch side, called like a function: steps in, seconds out.

    Args:
        python: String, the interpreter that has the peers.
        what: Dict, what it shall train.

    Raises:
        RuntimeError: The peer cannot run this.
    """

    def __init__(self, python: str, what: dict[str, object]) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - the user names the interpreter
            [python, WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        nothing = f"no answer: does {python} have torch and the peers?"
        answer = self._ask(what) or {"error": nothing}
        if "error" in answer:
            self.close()
            raise RuntimeError(answer["error"])

    def __call__(self, steps: int) -> float:
        return self._ask(steps)

    def _ask(self, question: object) -> object:
        try:
            print(json.dumps(question), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            return None
        answer = self._process.stdout.readline()
        return json.loads(answer) if answer else None

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def interleaved(
    programs: dict[str, Callable[[int], float]], rounds: int, steps: int
) -> dict[str, list[float]]:
    """Returns milliseconds a step, a list of rounds for each program."""
    times = {name: [] for name in programs}
    for turn in range(rounds):
        # Which goes first changes, so that none always follows the same other one.
        names = list(programs)
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            times[name].append(1000 * programs[name](steps) / steps)
    return times


def summary(times: dict[str, list[float]]) -> dict[str, float | tuple[float, float]]:
    """Returns medians, the ratios to the plain steps, and how many times faster we are."""
    pairs = zip(times["peer"], times["ours"], strict=True)
    faster = [theirs / ours for theirs, ours in pairs]
    over = {
        name: statistics.median(a / b for a, b in zip(times[name], times[plain], strict=True))
        for name, plain in (("ours", "keras"), ("peer", "torch"))
    }
    return {
        "ours_ms": statistics.median(times["ours"]),
        "peer_ms": statistics.median(times["peer"]),
        "ours_over_plain": over["ours"],
        "peer_over_plain": over["peer"],
        "times_faster": statistics.median(faster),
        "interval": step_cost.median_interval(faster),
    }


def compare(args: argparse.Namespace, num_tasks: int) -> None:
    tasks = [f"task{index}" for index in range(num_tasks)]
    what = {
        "network": args.network,
        "tasks": tasks,
        "batch": step_cost.BATCH,
        "classes": step_cost.CLASSES,
        "threads": os.cpu_count(),
    }
    plain = {
        "keras": step_cost.stepper(
            step_cost.build(keras.Model, args.network, num_tasks), num_tasks, jit_compile=False
        ),
        "torch": Peer(args.torch_python, {**what, "library": "plain"}),
    }
    print(f"\n{args.network}, {num_tasks} tasks, batch {step_cost.BATCH}")
    print(f"{'method':26s}{'peer':9s}{'ours':>16s}{'peer':>18s}   times faster")
    wanted = [(*text.split(":"), "")[:2] for text in args.methods]
    for name, scope, library in peers_methods.rows(wanted):
        label = f"{name}:{scope}"
        own = step_cost.stepper(
            step_cost.build(keras_mtl.MultiTaskModel, args.network, num_tasks),
            num_tasks,
            jit_compile=False,
            **step_cost.parse_method(label),
        )
        question = {**what, "library": library, "method": name, "scope": scope}
        try:
            peer = Peer(args.torch_python, question)
        except RuntimeError as error:
            print(f"{label:26s}{library:9s}  does not run: {error}", flush=True)
            continue
        found = summary(interleaved({"ours": own, **plain, "peer": peer}, args.rounds, args.steps))
        peer.close()
        print(
            f"{label:26s}{library:9s}"
            f"{found['ours_ms']:8.1f} ms {found['ours_over_plain']:4.2f}x"
            f"{found['peer_ms']:9.1f} ms {found['peer_over_plain']:5.2f}x"
            f"{found['times_faster']:9.2f}  [{found['interval'][0]:.2f}, "
            f"{found['interval'][1]:.2f}]",
            flush=True,
        )
    plain["torch"].close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python", default=sys.executable, help="has torch and the peers")
    parser.add_argument("--network", choices=list(step_cost.NETWORKS), default="lenet")
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--methods", nargs="+", default=[], help="name or name:scope")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--steps", type=int, default=3, help="steps a block")
    args = parser.parse_args()
    for num_tasks in args.tasks:
        compare(args, num_tasks)


if __name__ == "__main__":
    main()
