"""The wheel: the three methods, what they import, and no more; the README's snippets run on it."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
import uv
from packaging.requirements import Requirement

import dcasgd_jax
import gsgd_jax
import lacim_jax
from benchmarks.docs import package_page
from tests.test_readme import SNIPPETS

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIRED = {"jax", "flax", "optax", "chex", "jaxtyping", "numpy"}
METHODS = (gsgd_jax, dcasgd_jax, lacim_jax)
NOT_REQUIRED = (
    "tensorflow_datasets", "array_record", "importlib_resources", "PIL", "matplotlib", "mlxtend",
    "sklearn", "tyro", "ray", "beartype", "pytest", "torch", "common", "benchmarks", "tests",
)  # fmt: skip
AS_USERS_DO = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "false"}
"""The programs are then those that tests of the README compile, and kept with them."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from this tree by what the environment holds, without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    _uv("build", "--wheel", "--offline", "--no-create-gitignore", "--out-dir", folder, ROOT)
    (path,) = folder.glob("*.whl")
    return path


def _uv(*arguments: object) -> None:
    subprocess.run(
        [uv.find_uv_bin(), "--quiet", "--no-config", "--no-cache", *map(str, arguments)],
        check=True, timeout=120,
    )  # fmt: skip


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def required(requirements: list[str]) -> set[str]:
    """The distributions of requirements that no extra asks for, as they are installed here."""
    parsed = [Requirement(text) for text in requirements]
    return {normal(r.name) for r in parsed if not r.marker or r.marker.evaluate({"extra": ""})}


def normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def closure(names: set[str]) -> set[str]:
    """Distributions, and all that they require in turn."""
    found, waiting = set(), set(names)
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting |= required(importlib.metadata.requires(name) or []) - found
    return found


def test_it_holds_the_three_methods_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    (information,) = {n.partition("/")[0] for n in names if ".dist-info/" in n}
    shipped = {n for n in names if not n.startswith(information) and not n.endswith("/")}
    sources = {
        path.relative_to(ROOT).as_posix()
        for method in METHODS
        for path in (ROOT / method.__name__).rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }
    assert shipped == sources
    assert f"{information}/licenses/LICENSE" in names


def test_it_requires_what_the_methods_import(wheel):
    told = metadata(wheel)
    assert told["Version"] == PROJECT["version"]
    assert required(told.get_all("Requires-Dist", [])) == REQUIRED
    assert told.get_all("Provides-Extra") == sorted(PROJECT["optional-dependencies"])


def test_its_metadata_are_what_an_index_shows(wheel):
    """What pyroma and `twine check` ask for, without them."""
    told = metadata(wheel)
    for field in ("Summary", "Keywords", "Author-Email", "License-Expression", "Requires-Python"):
        assert told[field], field
    assert told["Description-Content-Type"] == "text/markdown"
    assert told.get_payload() == package_page.PAGE.read_text(encoding="utf-8")
    classifiers = told.get_all("Classifier", [])
    for version in ("3.11", "3.12"):
        assert f"Programming Language :: Python :: {version}" in classifiers
    assert "Typing :: Typed" in classifiers
    urls = told.get_all("Project-URL", [])
    assert len(urls) == 3
    assert all(url.partition(", ")[2].startswith("https://") for url in urls)


SNIPPETS_ALONE = """
import importlib.machinery, json, sys

told = json.load(sys.stdin)
sys.path[:] = [told["installed"], *sys.path, told["libraries"]]

class OnlyWhatIsRequired(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] not in told["not_required"]:
            return super().find_spec(name, path, target)

sys.meta_path[-1] = OnlyWhatIsRequired
refused = []
for name in told["not_required"]:
    try:
        __import__(name)
    except ModuleNotFoundError:
        refused.append(name)
for snippet in told["snippets"]:
    exec(compile(snippet, "README.md", "exec"), {"__name__": "readme"})
modules = {name: sys.modules[name].__file__ for name in told["methods"]}
loaded = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps({"refused": refused, "modules": modules, "loaded": loaded}))
"""
"""In a process that has the wheel, what it requires, and nothing else that is installed here."""


def test_the_snippets_run_with_nothing_but_what_it_requires(wheel, tmp_path):
    installed = tmp_path / "installed"
    _uv("pip", "install", "--offline", "--no-deps", "--python", sys.executable,
        "--target", installed, wheel)  # fmt: skip
    distributions = closure(REQUIRED)
    others = {
        name
        for name, owners in importlib.metadata.packages_distributions().items()
        if not distributions & {normal(owner) for owner in owners}
    }
    methods = [method.__name__ for method in METHODS]
    others = sorted(others.difference(methods, sys.stdlib_module_names))
    assert set(others) >= set(NOT_REQUIRED) - {"torch", "common", "benchmarks", "tests"}
    told = {
        "installed": str(installed),
        "libraries": sysconfig.get_path("purelib"),
        "not_required": sorted({*others, *NOT_REQUIRED}),
        "snippets": SNIPPETS,
        "methods": methods,
    }
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", SNIPPETS_ALONE],
        input=json.dumps(told), cwd=tmp_path, env=os.environ | AS_USERS_DO,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *printed, last = done.stdout.splitlines()
    found = json.loads(last)
    assert found["refused"] == told["not_required"]
    for method in methods:
        assert Path(found["modules"][method]).is_relative_to(installed)
    # flax requires orbax, so it is there: no method and no snippet loads it.
    assert not {"orbax", "tensorstore"} & set(found["loaded"])
    assert len([line for line in printed if line.startswith(("after", "weights", "accuracy"))]) == 3


@pytest.mark.parametrize("method", METHODS)
def test_each_method_says_the_version(method):
    assert method.__version__ == PROJECT["version"]
