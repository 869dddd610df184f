"""Runs optax's own common suites over our factories.

Both ship in optax's wheel as private API: `optax.contrib._common_test.ContribTest`, which runs here
in this process, and `optax._src.sharding_test.ShardingTest`, which wants eight devices and runs in
one of its own. A factory is `name -> f(learning_rate: optax.ScalarOrSchedule, ...)`, every other
argument having a default. A test module of a method reads::

    from tests.contract import optax_suite

    FACTORIES = {"dcasgd": dcasgd_factory, ...}

    @pytest.mark.parametrize("case", optax_suite.cases(FACTORIES))
    def test_common_suite(monkeypatch, case):
        optax_suite.run_case(monkeypatch, FACTORIES, case)

    def test_sharding_suite():
        optax_suite.run_sharding("tests.contract.test_dcasgd_jax:FACTORIES")

Nothing may be skipped: a `SkipTest` raised by optax is an error here, a factory whose learning rate
is not annotated `optax.ScalarOrSchedule` among its causes. When optax adds, drops or renames a test
of either suite, importing this module, or the sharding run, says so.
"""

import importlib
import inspect
import itertools
import json
import os
import subprocess
import sys
import unittest
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib._common_test as suite
import pytest

ROOT = Path(__file__).resolve().parents[2]
LEARNING_RATE = 1e-3  # converges on Rosenbrock's function within the suite's 30,000 steps

Factories = Mapping[str, Callable[..., optax.GradientTransformation]]

_TARGETS = ("parabola", "rosenbrock", "matrix_parabola", "mixed_tensor_target")
_DTYPES = {"dtype": ["bfloat16", "float32"]}
_AXES: dict[str, dict[str, list[Any]]] = {
    "test_optimizers": {
        "target": [getattr(suite, f"_setup_{target}") for target in _TARGETS],
        "dtype": ["float32"],
    },
    "test_optimizers_accept_extra_args": {"wrap": [False]},
    "test_optimizers_can_be_wrapped_in_inject_hyperparams": {},
    "test_preserve_dtype": _DTYPES,
    "test_gradient_accumulation": _DTYPES,
    "test_state_shape_dtype_shard_stability": {
        "dtype": [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64]
    },
    "test_optimizers_accept_learning_rate_schedule_if_type_annotated_as_such": {},
}
"""Every test of `ContribTest` and the values of the parameters that are not the optimiser's."""

SHARDING_TESTS = (
    "test_init_with_abstract_input",
    "test_state_sharding_type_init_match_update",
    "test_state_sharding_type_preserved_with_jit",
)
SHARDING_TESTS_OF_OPTAX = ("test_microbatch_with_explicit_sharding",)  # takes no optimiser


class Case(NamedTuple):
    """One test of optax's suite for one factory."""

    factory: str
    test: str
    arguments: dict[str, Any]


def _bodies(test_case: type) -> dict[str, tuple[str, Callable[..., None]]]:
    """The undecorated tests of a parameterized test case: name -> (a generated name, function)."""
    found: dict[str, tuple[str, Callable[..., None]]] = {}
    for name, function in inspect.getmembers(test_case, callable):
        if name.startswith("test"):
            body = inspect.unwrap(function)
            found.setdefault(body.__name__, (name, body))
    return found


_BODIES = _bodies(suite.ContribTest)
if _BODIES.keys() != _AXES.keys():
    raise AssertionError(
        f"optax {optax.__version__} changed its common suite: "
        f"new {sorted(_BODIES.keys() - _AXES.keys())}, gone {sorted(_AXES.keys() - _BODIES.keys())}"
    )


def cases(factories: Factories) -> list[Any]:
    """All cases of the common suite, as pytest parameters with readable names.

    Args:
        factories: what to test, by name.

    Returns:
        One `pytest.param` holding a `Case` for every factory, test and value of its parameters.
    """
    found = []
    for factory, (test, axes) in itertools.product(factories, _AXES.items()):
        for values in itertools.product(*axes.values()):
            names = [getattr(value, "__name__", str(value)) for value in values]
            case = Case(factory, test, dict(zip(axes, values, strict=True)))
            found.append(pytest.param(case, id="-".join([factory, test, *names])))
    return found


def run_case(monkeypatch: pytest.MonkeyPatch, factories: Factories, case: Case) -> None:
    """Runs one case; a failure or a skip raises.

    Args:
        monkeypatch: pytest's; optax looks factories up by name in its own modules otherwise.
        factories: as given to `cases`.
        case: one of its cases.
    """
    monkeypatch.setattr(suite, "_get_opt_factory", factories.__getitem__)
    name, body = _BODIES[case.test]
    try:
        # The suite and much of optax (bias correction, MultiSteps) let int32 meet float32.
        with jax.numpy_dtype_promotion("standard"):
            body(
                suite.ContribTest(name),
                opt_name=case.factory,
                opt_kwargs={"learning_rate": LEARNING_RATE},
                wrapper_name=None,
                wrapper_kwargs=None,
                **case.arguments,
            )
    except unittest.SkipTest as skip:
        raise AssertionError(f"optax skipped {case.test} for {case.factory}: {skip}") from skip


def run_sharding(factories: str) -> None:
    """Runs optax's sharding suite over factories on eight host devices, in a process of its own.

    Args:
        factories: where the factories are found, as "module:NAME".

    Raises:
        AssertionError: if a test fails or is skipped, or the suite is not the one we know.
    """
    found = run_on_eight_devices(f"{__name__}:sharding_worker", factories)
    expected = {f"{factory}:{test}" for factory in _named(factories) for test in SHARDING_TESTS}
    assert set(json.loads(found)) == expected


def run_on_eight_devices(function: str, *arguments: str) -> str:
    """Calls a function in a process of its own that has eight host devices.

    Args:
        function: where it is found, as "module:name".
        *arguments: strings to call it with.

    Returns:
        The last line of what it wrote.

    Raises:
        AssertionError: if it raises; the message is its traceback.
    """
    call = f"from {__name__} import _named; _named({function!r})(*{arguments!r})"
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", call],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().rpartition("\n")[2]


def sharding_worker(factories: str) -> None:
    """The process of `run_sharding`: writes the tests that passed, raises at the first failure."""
    assert jax.device_count() == 8, jax.devices()
    from optax._src import sharding_test

    known = {*SHARDING_TESTS, *SHARDING_TESTS_OF_OPTAX}
    bodies = _bodies(sharding_test.ShardingTest)
    if bodies.keys() != known:
        raise AssertionError(f"optax {optax.__version__} changed its sharding suite: {set(bodies)}")
    # The suite compares version strings, "0.10.2" < "0.7.2", and skips on every new jax.
    jax.__version__ = "0.9.0"
    passed = []
    for factory, make in _named(factories).items():
        for test in SHARDING_TESTS:
            generated, body = bodies[test]
            body(sharding_test.ShardingTest(generated), make(1.0))
            passed.append(f"{factory}:{test}")
    sys.stdout.write(json.dumps(passed) + "\n")


def _named(place: str) -> Any:
    """What "module:name" names."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
