"""Runs every conformance test on every method there is."""

import pathlib
import sys

# Support modules beside the tests: with `importlib` mode pytest adds no directory by itself.
sys.path.insert(0, str(pathlib.Path(__file__).parent))

import conformance_support as support

CASES = {
    "weighting_case": support.weighting_cases,
    "balancing_case": support.balancing_cases,
    "case": lambda: {**support.weighting_cases(), **support.balancing_cases()},
}


def pytest_generate_tests(metafunc):
    for argument, cases in CASES.items():
        if argument in metafunc.fixturenames:
            found = cases()
            metafunc.parametrize(argument, found.values(), ids=found.keys())
