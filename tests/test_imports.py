"""Imports point one way, benchmarks -> methods and common -> libraries, and all are declared."""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
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
FLOORS = {
    "benchmarks/harness": set(),
    "benchmarks/path_space": {"harness"},
    "benchmarks/delay": {"harness"},
    "benchmarks/latent": {"harness"},
    "benchmarks/soak": {"harness"},
    "benchmarks/together": {"harness", "path_space", "delay", "latent"},
    "benchmarks/judgement": {"harness", "path_space", "delay", "latent", "soak", "together"},
    "benchmarks/accelerator": {"harness", "path_space", "delay", "latent"},
    "benchmarks/notebooks": set(),
    "benchmarks/docs": {"harness", "judgement", "notebooks"},
    "gsgd_jax/gauge": {"_precision"},
    "gsgd_jax/_precision": set(),
    "gsgd_jax/tracing": {"gauge", "_precision"},
    "gsgd_jax/mlp_gauge": {"gauge"},
    "gsgd_jax/_factors": {"gauge", "tracing"},
    "gsgd_jax/solver": {"_factors"},
    "gsgd_jax/balance": {"_factors", "_precision", "solver"},
    "gsgd_jax/coordinates": {"_factors", "_precision", "balance", "gauge", "tracing"},
    "gsgd_jax/_extra_arguments": {"coordinates"},
    "gsgd_jax/_update_checks": {"coordinates"},
    "gsgd_jax/transform": {
        "_extra_arguments",
        "_factors",
        "_precision",
        "_update_checks",
        "coordinates",
    },
    "gsgd_jax/line_search": {"_factors", "_precision", "coordinates", "transform"},
    "gsgd_jax/change": {"_factors", "_precision", "coordinates", "gauge", "tracing", "transform"},
    "gsgd_jax/initializers": {"coordinates"},
    "gsgd_jax/structure": {"coordinates", "gauge"},
    "gsgd_jax/representation": {"coordinates", "gauge", "structure"},
    "gsgd_jax/canonical": {"_factors", "_precision", "balance", "gauge"},
    "gsgd_jax/family": {
        "_extra_arguments",
        "_factors",
        "_precision",
        "_update_checks",
        "balance",
        "coordinates",
        "gauge",
        "solver",
        "tracing",
        "transform",
    },
    "dcasgd_jax/_precision": set(),
    "dcasgd_jax/_arguments": {"_precision"},
    "dcasgd_jax/_masked_trees": {"_precision"},
    "dcasgd_jax/diagnostics": {"_precision"},
    "dcasgd_jax/schedules": set(),
    "dcasgd_jax/rules": {"_precision", "_arguments", "_masked_trees"},
    "dcasgd_jax/peers": {"_precision", "_arguments", "_masked_trees", "rules"},
    "dcasgd_jax/simulator": {"_precision", "rules", "schedules"},
    "dcasgd_jax/actors": {"_precision", "_arguments", "rules", "schedules", "simulator"},
    "lacim_jax/_keywords": set(),
    "lacim_jax/model": set(),
    "lacim_jax/label_weight": {"model"},
    "lacim_jax/objective": {"label_weight", "model"},
    "lacim_jax/codes": set(),
    "lacim_jax/starts": {"model"},
    "lacim_jax/training": {"_keywords", "label_weight", "model", "objective", "starts"},
    "lacim_jax/invariant_objective": {"model", "objective", "chance"},
    "lacim_jax/erm": {"model"},
    "lacim_jax/logistic": set(),
    "lacim_jax/invariance": {"logistic"},
    "lacim_jax/boosting": {"logistic"},
    "lacim_jax/inference": {"_keywords", "model"},
    "lacim_jax/looking": {"model"},
    "lacim_jax/identifiability": {"model"},
    "lacim_jax/chance": set(),
    "lacim_jax/baselines": {"model", "erm", "chance", "label_weight"},
    "common/files": set(),
    "common/seeds": set(),
    "common/progress": set(),
    "common/_absl_log": set(),
    "common/networks": set(),
    "common/data": {"seeds", "_absl_log"},
    "common/features": {"files", "progress", "data", "networks"},
    "common/training": {"files", "progress", "_absl_log", "data"},
    "common/results": {"files"},
}
"""Of each wing, the other wings of its package that it may import, and the files beside them."""
METHOD_LIBRARIES = {"jax", "flax", "optax", "chex", "jaxtyping", "numpy"}
ONLY_IN = {"ray": ("dcasgd_jax/actors/",)}  # what one part of a method may load, when asked
COMPARED = {  # nothing needs them
    "torch": ("benchmarks/delay/timed/", "benchmarks/latent/colored/torch_search.py"),
    "appfl": ("benchmarks/delay/timed/",),
}
EXTRAS = {
    "common": ["bench"],
    "benchmarks": ["bench", "notebooks"],
    "tests": ["bench", "notebooks", "ray", "test"],
}


def imports(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every import in a file, wherever in it, relative ones resolved."""
    package = path.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = [*base, *([node.module] if node.module else [])]
            yield from ((node.lineno, ".".join([*module, alias.name])) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:  # import_module("x"), __import__("x")
            called = ast.unparse(node.func).rpartition(".")[2]
            argument = node.args[0]
            if called in ("import_module", "__import__") and isinstance(argument, ast.Constant):
                yield node.lineno, str(argument.value)


def climbs(path: str, name: str) -> bool:
    """Whether a file of a wing imports from a wing that does not lie below it."""
    package, wing = path.removesuffix(".py").split("/")[:2]
    other_package, _, rest = name.partition(".")
    other = rest.partition(".")[0]
    return (
        other_package == package
        and other != wing
        and f"{package}/{wing}" in FLOORS
        and other not in FLOORS[f"{package}/{wing}"]
    )


def violations(root: Path, libraries: Mapping[str, set[str]]) -> list[str]:
    """Every import that breaks a rule, as "file:line imports name".

    Args:
        root: holds the packages.
        libraries: of each package, the top-level names of what it may import from outside.
    """
    found = []
    for package, ours in MAY_IMPORT.items():
        for path in sorted((root / package).rglob("*.py")):
            relative = path.relative_to(root).as_posix()
            for line, full_name in imports(path, root):
                name = full_name.partition(".")[0]
                allowed = name in (ours if name in OURS else libraries[package])
                if (package in METHODS and name in ONLY_IN) or name in COMPARED:
                    allowed = relative.startswith((ONLY_IN | COMPARED)[name])
                if not allowed and name not in sys.stdlib_module_names:
                    found.append(f"{relative}:{line} imports {name}")
                elif climbs(relative, full_name):
                    found.append(f"{relative}:{line} imports {full_name}")
    return list(dict.fromkeys(found))


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
    assert base - {"flaxlib_src"} == METHOD_LIBRARIES  # a file that flax leaves behind
    libraries = {p: base.union(*(imported(extras[e]) for e in EXTRAS[p])) for p in EXTRAS}
    return {**libraries, **dict.fromkeys(METHODS, METHOD_LIBRARIES)}


def normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


NO_WINGS = {"__init__", "__main__", "accelerate", "cli", "subcommands"}


def test_every_wing_has_its_floor():
    for package in {wing.split("/")[0] for wing in FLOORS}:
        inits = (path.parent.name for path in (ROOT / package).glob("*/__init__.py"))
        wings = {*inits, *(path.stem for path in (ROOT / package).glob("*.py"))}
        floors = {wing.split("/")[1] for wing in FLOORS if wing.startswith(f"{package}/")}
        assert wings - NO_WINGS == floors
        assert all(len(list(path.glob("*.py"))) <= 16 for path in (ROOT / package).rglob("*"))


def test_floors_have_no_circle():
    for package in {wing.split("/")[0] for wing in FLOORS}:
        graph = {
            wing.split("/")[1]: below
            for wing, below in FLOORS.items()
            if wing.startswith(f"{package}/")
        }
        assert set(TopologicalSorter(graph).static_order()) == set(graph)


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
    "dcasgd_jax/diagnostics.py": "from dcasgd_jax import simulator\n",
    "dcasgd_jax/schedules/trace.py": "from dcasgd_jax.schedules.schedule import Schedule\n",
    "dcasgd_jax/rules/hessian.py": "from ..schedules import round_robin\n",
    "dcasgd_jax/simulator/state.py": "from dcasgd_jax.rules.sending import SendingRule\n",
    "dcasgd_jax/simulator/plan.py": "from dcasgd_jax import simulate\n",
    "lacim_jax/__init__.py": "if False:\n    from benchmarks.harness import stages\nimport scipy\n",
    "lacim_jax/model/lacim.py": "from lacim_jax.model import likelihoods\n",
    "lacim_jax/looking/traversal.py": "from lacim_jax import model, inference\n",
    "lacim_jax/objective.py": "from .erm import ERM\nfrom .model import LaCIM\n",
    "lacim_jax/baselines/csg.py": "from ..objective import elbo\nfrom ..model.lacim import LaCIM\n",
    "common/results/tables.py": "from common.results.records import Record\n",
    "common/data/splits.py": "from common import seeds\nimport common.training.loop\n",
    "common/__init__.py": "import matplotlib\nfrom gsgd_jax import skeleton\nimport undeclared.x\n",
    "common/tests.py": "import os, tests\n",
    "benchmarks/__init__.py": "import gsgd_jax, common.data, matplotlib, json\nimport tests.x\n",
    "benchmarks/cli.py": "from benchmarks import delay, judgement\n",
    "benchmarks/harness/runner.py": "from benchmarks.harness.stages import Stages\n",
    "benchmarks/harness/kit.py": "from benchmarks import delay\n",
    "benchmarks/delay/digits.py": "from ..latent import runs\nfrom ..harness import runner\n",
    "benchmarks/latent/reports/a.py": "from ..runs import f\nimport benchmarks.judgement.page\n",
    "benchmarks/together/both.py": "from benchmarks import delay, path_space, soak\n",
    "tests/test_all.py": "import gsgd_jax, common, benchmarks, hypothesis, tests.oracles\n",
}
CAUGHT = [
    "gsgd_jax/deep/inner.py:2 imports dcasgd_jax",
    "gsgd_jax/lazy.py:2 imports lacim_jax",
    "gsgd_jax/skeleton.py:2 imports common",
    "dcasgd_jax/__init__.py:1 imports matplotlib",
    "dcasgd_jax/actors_too.py:1 imports ray",
    "dcasgd_jax/diagnostics.py:1 imports dcasgd_jax.simulator",
    "dcasgd_jax/rules/hessian.py:1 imports dcasgd_jax.schedules.round_robin",
    "dcasgd_jax/simulator/plan.py:1 imports dcasgd_jax.simulate",
    "lacim_jax/looking/traversal.py:1 imports lacim_jax.inference",
    "lacim_jax/objective.py:1 imports lacim_jax.erm.ERM",
    "lacim_jax/baselines/csg.py:1 imports lacim_jax.objective.elbo",
    "common/data/splits.py:2 imports common.training.loop",
    "lacim_jax/__init__.py:3 imports scipy",
    "lacim_jax/__init__.py:2 imports benchmarks",
    "common/__init__.py:2 imports gsgd_jax",
    "common/__init__.py:3 imports undeclared",
    "common/tests.py:1 imports tests",
    "benchmarks/__init__.py:2 imports tests",
    "benchmarks/harness/kit.py:1 imports benchmarks.delay",
    "benchmarks/delay/digits.py:1 imports benchmarks.latent.runs",
    "benchmarks/latent/reports/a.py:2 imports benchmarks.judgement.page",
    "benchmarks/together/both.py:1 imports benchmarks.soak",
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
