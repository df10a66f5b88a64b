"""Runs every conformance test on every method there is."""

import pathlib
import sys

# Support modules beside the tests: with `importlib` mode pytest adds no directory by itself.
sys.path.insert(0, str(pathlib.Path(__file__).parent))

import conformance_support as support
import pytest


def _deep_cases():
    """All methods, scope "features" in the slow sweep only: for what the scope hardly touches."""
    return {
        name: pytest.param(case, marks=pytest.mark.slow) if name.endswith("features") else case
        for name, case in _all_cases().items()
    }


def _all_cases():
    return {**support.weighting_cases(), **support.balancing_cases()}


CASES = {
    "weighting_case": support.weighting_cases,
    "balancing_case": support.balancing_cases,
    "case": _all_cases,
    "deep_case": _deep_cases,
}


def pytest_generate_tests(metafunc):
    for argument, cases in CASES.items():
        if argument in metafunc.fixturenames:
            found = cases()
            metafunc.parametrize(argument, found.values(), ids=found.keys())
