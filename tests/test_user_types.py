"""Types as users see them: a checker finds nothing in their programs but their mistakes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dcasgd_jax
import gsgd_jax
import lacim_jax
from tests.test_readme import SNIPPETS

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ROOT / "tests" / "users"
OURS = {name for package in (gsgd_jax, dcasgd_jax, lacim_jax) for name in package.__all__}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the checker says of the programs, and of the README's, by mode, file and line."""
    typed = ROOT / ".cache" / "typed"  # below the root, where this tree is what is imported
    typed.mkdir(parents=True, exist_ok=True)
    for number, snippet in enumerate(SNIPPETS):
        (typed / f"readme_{number}.py").write_text(snippet, encoding="utf-8")
    settings = {
        "include": [str(PROGRAMS), str(typed)],
        "exclude": [],
        "executionEnvironments": [{"root": str(ROOT)}],
        "venvPath": str(Path(sys.prefix).parent),
        "venv": Path(sys.prefix).name,
    }
    said = {}
    for mode in ("basic", "strict"):
        path = tmp_path_factory.mktemp("typed") / "pyrightconfig.json"
        path.write_text(json.dumps(settings | {"typeCheckingMode": mode}))
        done = subprocess.run(
            [sys.executable, "-m", "basedpyright", "--outputjson", "--project", path],
            capture_output=True, text=True, cwd=ROOT,
        )  # fmt: skip
        told = json.loads(done.stdout)
        assert told["summary"]["filesAnalyzed"] == len(SNIPPETS) + len(list(PROGRAMS.glob("*.py")))
        for each in told["generalDiagnostics"]:
            place = Path(each["file"]).stem, each["range"]["start"]["line"] + 1
            said.setdefault(mode, []).append((*place, each.get("rule", ""), each["message"]))
    return said


def test_in_basic_mode_it_marks_the_mistakes_and_nothing_else(found):
    lines = (PROGRAMS / "mistakes.py").read_text(encoding="utf-8").splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    assert len(wrong) > 10
    assert {(file, line) for file, line, *_ in found["basic"]} == {("mistakes", n) for n in wrong}


OTHERS = ("reportMissingTypeStubs", "reportUnknown", "reportMissingParameterType")


def test_in_strict_mode_nothing_of_ours_is_unknown(found):
    """Of jax, optax and flax much is unknown to it, and the README's functions have no types."""
    for file, line, rule, message in found["strict"]:
        if file == "mistakes" or file.startswith("readme"):
            continue
        assert rule.startswith(OTHERS), (file, line, message)
        named = set(re.findall(r'(?:Type of|Return type of|parameter) "(\w+)"', message))
        assert not named & OURS, (file, line, message)
