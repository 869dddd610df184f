"""Imports point one way, benchmarks -> methods and common -> libraries, and all are declared."""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
METHODS = ("gsgd_jax", "dcasgd_jax", "lacim_jax")
OURS = (*METHODS, "common", "benchmarks", "tests")
MAY_IMPORT = {
    **{method: {method} for method in METHODS},  # each can be lifted out whole
    "common": {"common"},
    "benchmarks": {"benchmarks", "common", *METHODS},
    "tests": set(OURS),
}
METHOD_LIBRARIES = {"jax", "flax", "optax", "chex", "jaxtyping", "numpy"}
ONLY_IN = {"ray": "dcasgd_jax/actors"}  # libraries that one part of a method may load, when asked
EXTRAS = {
    "common": ["bench"],
    "benchmarks": ["bench", "notebooks"],
    "tests": ["bench", "notebooks", "ray", "test"],
}


def imports(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level name of every import in a file, wherever in it, relative ones resolved."""
    package = path.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module is not None
            yield node.lineno, node.module.partition(".")[0]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1]
            absolute = [*base, *(node.module or node.names[0].name).split(".")]
            yield node.lineno, absolute[0]
        elif isinstance(node, ast.Call) and node.args:  # import_module("x"), __import__("x")
            called = ast.unparse(node.func).rpartition(".")[2]
            argument = node.args[0]
            if called in ("import_module", "__import__") and isinstance(argument, ast.Constant):
                yield node.lineno, str(argument.value).partition(".")[0]


def violations(root: Path, libraries: Mapping[str, set[str]]) -> list[str]:
    """Every import that breaks a rule, as "file:line imports name".

    Args:
        root: holds the packages.
        libraries: of each package, the top-level names of what it may import from outside.
    """
    found = []
    for package, ours in MAY_IMPORT.items():
        for path in sorted((root / package).rglob("*.py")):
            for line, name in imports(path, root):
                allowed = name in (ours if name in OURS else libraries[package])
                if package in METHODS and name in ONLY_IN:
                    allowed = path.relative_to(root).as_posix().startswith(ONLY_IN[name] + "/")
                if not allowed and name not in sys.stdlib_module_names:
                    found.append(f"{path.relative_to(root)}:{line} imports {name}")
    return found


def declared_libraries() -> dict[str, set[str]]:
    """What each package may import according to pyproject.toml, as import names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names: dict[str, set[str]] = {}
    for name, distributions in importlib.metadata.packages_distributions().items():
        for distribution in distributions:
            names.setdefault(normal(distribution), set()).add(name)

    def imported(requirements: list[str]) -> set[str]:
        wanted = {normal(re.split(r"[\s\[<>=!~;]", r)[0]) for r in requirements}
        return set().union(*(names[distribution] for distribution in wanted))

    extras = project["optional-dependencies"]
    base = imported(project["dependencies"])
    assert base >= METHOD_LIBRARIES
    libraries = {p: base.union(*(imported(extras[e]) for e in EXTRAS[p])) for p in EXTRAS}
    return {**libraries, **dict.fromkeys(METHODS, METHOD_LIBRARIES)}


def normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_imports_point_one_way_and_are_declared():
    for package in OURS:
        assert list((ROOT / package).rglob("*.py")), f"{package} is not where it should be"
    assert violations(ROOT, declared_libraries()) == []


PLANTED = {
    "gsgd_jax/__init__.py": "import jax\nfrom gsgd_jax import skeleton\nfrom . import skeleton\n",
    "gsgd_jax/skeleton.py": "def f():\n    import common.data\n",
    "gsgd_jax/deep/inner.py": "from ..skeleton import f\nfrom ...dcasgd_jax import g\n",
    "gsgd_jax/lazy.py": "import importlib\nimportlib.import_module('lacim_jax.model')\n",
    "dcasgd_jax/__init__.py": "import numpy as np, matplotlib.pyplot as plt\n",
    "dcasgd_jax/actors/process.py": "import importlib\nimportlib.import_module('ray')\n",
    "dcasgd_jax/actors_too.py": "import ray\n",
    "lacim_jax/__init__.py": "if False:\n    from benchmarks.registry import load\nimport scipy\n",
    "common/__init__.py": "import matplotlib\nfrom gsgd_jax import skeleton\nimport undeclared.x\n",
    "common/tests.py": "import os, tests\n",
    "benchmarks/__init__.py": "import gsgd_jax, common.data, matplotlib, json\nimport tests.x\n",
    "tests/test_all.py": "import gsgd_jax, common, benchmarks, hypothesis, tests.oracles\n",
}
CAUGHT = [
    "gsgd_jax/deep/inner.py:2 imports dcasgd_jax",
    "gsgd_jax/lazy.py:2 imports lacim_jax",
    "gsgd_jax/skeleton.py:2 imports common",
    "dcasgd_jax/__init__.py:1 imports matplotlib",
    "dcasgd_jax/actors_too.py:1 imports ray",
    "lacim_jax/__init__.py:3 imports scipy",
    "lacim_jax/__init__.py:2 imports benchmarks",
    "common/__init__.py:2 imports gsgd_jax",
    "common/__init__.py:3 imports undeclared",
    "common/tests.py:1 imports tests",
    "benchmarks/__init__.py:2 imports tests",
]


def test_planted_violations_are_caught(tmp_path):
    for name, text in PLANTED.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert sorted(violations(tmp_path, declared_libraries())) == sorted(CAUGHT)


HEAVY = {
    "matplotlib", "tyro", "rich", "tqdm", "tensorflow_datasets", "array_record", "tensorflow",
    "sklearn", "mlxtend", "pandas", "scipy", "PIL", "orbax", "tensorstore", "ray", "common",
    "benchmarks",
}  # fmt: skip


SEEN = f"""
import importlib, json, sys
import jax, flax.linen, optax, chex, jaxtyping, numpy

def names():
    return sorted({{module.partition(".")[0] for module in sys.modules}})

seen, before = {{"the libraries": names()}}, set(sys.modules)
for package in {(*METHODS, "dcasgd_jax.actors")}:
    assert importlib.import_module(package).__all__
    seen[package] = names()
    for new in set(sys.modules) - before:
        del sys.modules[new]
print(json.dumps(seen))
"""
"""Each package is imported beside the libraries alone, those before it forgotten."""


@pytest.fixture(scope="module")
def seen() -> dict[str, set[str]]:
    """The top-level modules that a process has after the libraries, and after each package.

    Not all that the libraries load could be avoided: flax loads rich, for one.
    """
    done = subprocess.run(
        [sys.executable, "-c", SEEN], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {name: set(modules) for name, modules in json.loads(done.stdout).items()}


def test_actors_are_imported_without_their_engine(seen):
    assert "ray" not in seen["dcasgd_jax.actors"]


@pytest.mark.parametrize("method", METHODS)
def test_importing_a_method_loads_nothing_heavy(method, seen):
    forbidden = (HEAVY | set(METHODS)) - {method} - seen["the libraries"]
    assert forbidden >= {"matplotlib", "tyro", "tensorflow_datasets", "sklearn", "orbax", "common"}
    assert method in seen[method]
    assert not seen[method] & forbidden
