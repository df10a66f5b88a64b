"""The PyTorch side of `peers.py`: trains with a peer's method, a number of steps at a time.

Runs in an environment of its own, which holds `torch`, `torchjd` and `LibMTL` and not this project.
Reads one JSON object that says what to build, answers `{"ready": true}` or `{"error": ...}`; then
reads numbers of steps and answers with the seconds they took, until its input ends.
"""

import importlib
import json
import sys
import time
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from peers_methods import LIBMTL, TORCHJD
from torch import nn

HIDDEN = 50


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 10, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(10, 20, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(320, HIDDEN),
        nn.ReLU(),
    )


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU()
    )


NETWORKS = {"lenet": (lenet, HIDDEN), "mlp": (mlp, 512)}


class Training:
    """One network, its optimizer and its batch; subclasses say how gradients come about.

    Args:
        network: String, a key of `NETWORKS`.
        tasks: List of strings.
        batch: Integer, the rows of a batch.
        classes: Integer, the classes of each task.
    """

    def __init__(self, network: str, tasks: list[str], batch: int, classes: int) -> None:
        torch.manual_seed(0)
        random = np.random.default_rng(0)
        self.x = torch.from_numpy(random.random((batch, 1, 28, 28), "float32"))
        self.y = [torch.from_numpy(random.integers(0, classes, batch)) for _ in tasks]
        self.make_trunk, width = NETWORKS[network]
        self.tasks = tasks
        self.heads = nn.ModuleDict({task: self.make_head(width, classes) for task in tasks})
        self.correct = torch.zeros(len(tasks))
        self.build()
        self.optimizer = torch.optim.Adam(self.parameters(), 1e-4)

    @staticmethod
    def make_head(width: int, classes: int) -> nn.Module:
        return nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, classes))

    def build(self) -> None:
        self.trunk = self.make_trunk()

    def parameters(self) -> list[Any]:
        return [*self.trunk.parameters(), *self.heads.parameters()]

    def forward(self) -> tuple[Any, list[Any]]:
        features = self.trunk(self.x)
        return features, [self.heads[task](features) for task in self.tasks]

    def backward(self, features: Any, losses: list[Any]) -> None:
        """Leaves gradients in the parameters. Here: of the plain sum."""
        del features
        sum(losses).backward()

    def run(self, steps: int) -> float:
        """Takes steps; returns the seconds they took."""
        start = time.perf_counter()
        for _ in range(steps):
            self.optimizer.zero_grad()
            features, outputs = self.forward()
            pairs = list(zip(outputs, self.y, strict=True))
            self.backward(features, [nn.functional.cross_entropy(*pair) for pair in pairs])
            self.optimizer.step()
            # The metrics that the Keras models count too.
            self.correct += torch.stack([(out.argmax(1) == y).float().mean() for out, y in pairs])
        float(self.correct[0])
        return time.perf_counter() - start


class TorchJD(Training):
    """`mtl_backward` with an aggregator: gradients of the trunk's parameters."""

    def __init__(self, method: str, *args: Any) -> None:
        self.method = method
        super().__init__(*args)

    def build(self) -> None:
        super().build()
        aggregation = importlib.import_module("torchjd.aggregation")
        self.autojac = importlib.import_module("torchjd.autojac")
        name, options = TORCHJD[self.method]
        if "n_tasks" in options:
            options = {**options, "n_tasks": len(self.tasks)}
        self.aggregator = getattr(aggregation, name)(**options)

    def backward(self, features: Any, losses: list[Any]) -> None:
        self.autojac.mtl_backward(losses, features=features)
        self.autojac.jac_to_grad(list(self.trunk.parameters()), self.aggregator)


class LibMTL(Training):
    """A weighting of LibMTL on its hard parameter sharing; `rep_grad` is the features' gradient."""

    def __init__(self, method: str, scope: str, *args: Any) -> None:
        self.method, self.scope = method, scope
        super().__init__(*args)

    def build(self) -> None:
        # LibMTL 1.1.5 cannot be imported beside a torchvision of today, which it needs for its
        # ready networks only.
        sys.modules.setdefault("LibMTL.model", types.ModuleType("LibMTL.model"))
        weighting = importlib.import_module("LibMTL.weighting")
        architecture = importlib.import_module("LibMTL.architecture")
        name, self.options, _ = LIBMTL[self.method]
        cls = type("Model", (architecture.HPS, getattr(weighting, name)), {})
        self.model = cls(
            self.tasks,
            self.make_trunk,
            self.heads,
            self.scope == "features",
            False,
            torch.device("cpu"),
        )
        # It writes into gradients that PyTorch 2 would have set to None.
        self.model.zero_grad_share_params = lambda: self.model.encoder.zero_grad(set_to_none=False)
        self.model.init_param()
        # What its trainer tells a weighting: the second of two epochs; GradNorm rests in the first.
        self.model.epoch, self.model.epochs = 1, 2
        self.model.train_loss_buffer = np.ones((len(self.tasks), 2))

    def parameters(self) -> list[Any]:
        return list(self.model.parameters())

    def forward(self) -> tuple[Any, list[Any]]:
        outputs = self.model(self.x)
        return None, [outputs[task] for task in self.tasks]

    def backward(self, features: Any, losses: list[Any]) -> None:
        del features
        self.model.backward(torch.stack(losses), **self.options)


def make(what: dict[str, Any]) -> Callable[[int], float]:
    """Returns the function that runs steps of what is asked for, after three of them."""
    torch.set_num_threads(what["threads"])
    args = (what["network"], what["tasks"], what["batch"], what["classes"])
    if what["library"] == "plain":
        training = Training(*args)
    elif what["library"] == "torchjd":
        training = TorchJD(what["method"], *args)
    else:
        training = LibMTL(what["method"], what["scope"], *args)
    training.run(3)
    return training.run


def main() -> None:
    try:
        run = make(json.loads(sys.stdin.readline()))
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
        return
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(run(int(line))), flush=True)


if __name__ == "__main__":
    main()
