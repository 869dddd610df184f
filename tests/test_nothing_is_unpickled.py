"""No package loads what could run a program: read from the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("gsgd_jax", "dcasgd_jax", "lacim_jax", "common", "benchmarks")
MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
MODULES |= {"jsonpickle", "torch", "yaml"}
"""Whose readers run what they read, or may."""
KNOWN = {"common/features/torch_file.py": ["imports pickle"]}
"""It derives an unpickler that knows stand-ins alone (tests/common/features/test_torch_file.py)."""
CALLS = {"eval", "exec", "compile", "__import__"}


def unsafe(path: Path) -> Iterator[str]:
    """Imports and calls that may run what a file holds."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name.partition(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or "").partition(".")[0]]
        else:
            names = []
        yield from (f"imports {name}" for name in names if name in MODULES)
        if not isinstance(node, ast.Call):
            continue
        called = node.func.id if isinstance(node.func, ast.Name) else None
        if called in CALLS:
            yield f"calls {called}"
        owner = ast.unparse(node.func)
        if owner.endswith(("read_pickle", "pickle.load", "pickle.loads", "torch.load")):
            yield f"calls {owner}"
        for keyword in node.keywords:
            if keyword.arg == "allow_pickle" and not (
                isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            ):
                yield f"calls {owner} with allow_pickle"
        if owner in ("np.load", "numpy.load", "jnp.load") and "allow_pickle" not in [
            keyword.arg for keyword in node.keywords
        ]:
            yield f"calls {owner} without allow_pickle=False"


def test_no_package_does():
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    assert ROOT / "common" / "data" / "stored.py" in files
    found = {str(path.relative_to(ROOT)): list(unsafe(path)) for path in files}
    assert {name: faults for name, faults in found.items() if faults} == KNOWN


def test_planted_faults_are_found(tmp_path):
    path = tmp_path / "planted.py"
    path.write_text(
        "import pickle\nfrom torch.serialization import load\nimport numpy as np\n"
        "np.load('x')\nnp.load('x', allow_pickle=True)\nnp.load('x', allow_pickle=False)\n"
        "eval('1')\nframe.read_pickle('x')\nimport re\nre.compile('x')\n"
    )
    assert sorted(unsafe(path)) == [
        "calls eval",
        "calls frame.read_pickle",
        "calls np.load with allow_pickle",
        "calls np.load without allow_pickle=False",
        "imports pickle",
        "imports torch",
    ]
