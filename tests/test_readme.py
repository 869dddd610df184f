"""The README: every Python snippet runs as it is typed, and every command it names exists."""

import re
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("index", range(len(SNIPPETS)))
def test_snippets_run_each_by_itself(index):
    # As users have jax, not as these tests do.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        run(index)


def run(index):
    exec(compile(SNIPPETS[index], f"README.md, snippet {index}", "exec"), {"__name__": "readme"})


def test_there_is_a_snippet_for_each_method():
    for package in ("gsgd_jax", "dcasgd_jax", "lacim_jax"):
        assert any(f"from {package} import" in snippet for snippet in SNIPPETS)


def test_the_make_targets_it_names_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)", README))
    assert {"demo", "test"} <= named <= targets
