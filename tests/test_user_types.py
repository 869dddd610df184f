"""Types as users see them: a checker finds nothing in their programs but their mistakes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import dcasgd_jax
import gsgd_jax
import lacim_jax
from tests.test_readme import SNIPPETS

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ROOT / "tests" / "users"
OURS = {name for package in (gsgd_jax, dcasgd_jax, lacim_jax) for name in package.__all__}


def checked(mode, folder):
    """What the checker says of the programs, and of the README's: file, line, rule, message."""
    typed = ROOT / ".cache" / "typed" / mode  # below the root, where this tree is what is imported
    typed.mkdir(parents=True, exist_ok=True)
    for number, snippet in enumerate(SNIPPETS):
        (typed / f"readme_{number}.py").write_text(snippet, encoding="utf-8")
    settings = {
        "include": [str(PROGRAMS), str(typed)],
        "exclude": [],
        "executionEnvironments": [{"root": str(ROOT)}],
        "venvPath": str(Path(sys.prefix).parent),
        "venv": Path(sys.prefix).name,
        "typeCheckingMode": mode,
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--outputjson", "--project", folder],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    told = json.loads(done.stdout)
    assert told["summary"]["filesAnalyzed"] == len(SNIPPETS) + len(list(PROGRAMS.glob("*.py")))
    for each in told["generalDiagnostics"]:
        line = each["range"]["start"]["line"] + 1
        yield Path(each["file"]).stem, line, each.get("rule", ""), each["message"]


def test_in_basic_mode_it_marks_the_mistakes_and_nothing_else(tmp_path):
    lines = (PROGRAMS / "mistakes.py").read_text(encoding="utf-8").splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    assert len(wrong) > 10
    found = {(file, line) for file, line, *_ in checked("basic", tmp_path)}
    assert found == {("mistakes", number) for number in wrong}


OTHERS = ("reportMissingTypeStubs", "reportUnknown", "reportMissingParameterType")


def test_in_strict_mode_nothing_of_ours_is_unknown(tmp_path):
    """Of jax, optax and flax much is unknown to it, and the README's functions have no types."""
    told = list(checked("strict", tmp_path))
    assert any(rule == "reportMissingTypeStubs" for _, _, rule, _ in told)  # it was strict
    for file, line, rule, message in told:
        if file == "mistakes" or file.startswith("readme"):
            continue
        assert rule.startswith(OTHERS), (file, line, message)
        named = set(re.findall(r'(?:Type of|Return type of|parameter) "(\w+)"', message))
        assert not named & OURS, (file, line, message)
