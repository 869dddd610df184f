"""The page of bad inputs: each is one clear error, and what the page says is what is printed."""

import re
from pathlib import Path

import pytest

from benchmarks.docs import bad_input, hooks
from benchmarks.docs.bad_cases import CASES, Case

PAGE = Path(hooks.__file__).parent / "pages" / "bad_input.md"
SAID_BY_OTHERS = ("a full disk while a record is written",)
"""The system's own words; a run that meets it says more."""


@pytest.fixture(scope="module")
def shown():
    return list(bad_input.tried())


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.input for case in CASES])
def test_each_is_one_error_with_rule_and_remedy(shown, number):
    case, error, text = shown[number]
    assert case is CASES[number]
    assert type(error) is case.kind
    if case.input in SAID_BY_OTHERS:
        return
    assert len(re.findall(r"[.;:,] ", text)) >= 1  # the rule and what came, and then what to do
    assert text.endswith((".", ")"))
    assert "/tmp" not in text  # the same wherever it is built
    assert len(text) < 600


def test_the_page_shows_all_of_them_topic_by_topic(shown, monkeypatch):
    monkeypatch.setattr(bad_input, "tried", lambda: iter(shown))
    made = hooks.on_page_markdown(PAGE.read_text(encoding="utf-8"), None, None, None)
    assert hooks.BAD_INPUT not in made
    rows = [line for line in made.splitlines() if line.startswith("| ") and "`: " in line]
    assert len(rows) == len(CASES)
    for case, row in zip(CASES, rows, strict=True):
        assert row.startswith(f"| {case.input} | `{case.where}` | `{case.kind.__name__}`: ")
        assert row.endswith(f" | {case.left} |")
        assert len(re.findall(r"(?<!\\)\|", row)) == 5
    assert re.findall("^## (.*)$", made, re.MULTILINE) == list(
        dict.fromkeys(case.topic for case in CASES)
    )


def test_what_is_asked_for_is_there():
    """The words of what must be refused, each in a case."""
    listing = " ".join(case.input for case in CASES)
    for word in (
        "shape", "floating-point", "labels out of range", "no example", "fewer examples", "NaN",
        "infinity", "gradients of other parameters", "no snapshot", "negative lambda",
        "negative learning rate", "a worker that is not there", "domain without an example",
        "one domain only", "checkpoint", "record", "full disk", "Ctrl-C", "..", "pickled",
    ):  # fmt: skip
        assert word in listing


@pytest.mark.parametrize("attempt", [lambda _: None, lambda _: int("x") and None])
def test_a_case_that_is_not_refused_or_otherwise_is_no_case(attempt):
    case = Case("t", "what was let through", "nothing", KeyError, attempt)
    with pytest.raises((AssertionError, ValueError), match=r"let through: not refused|invalid lit"):
        list(bad_input.tried((case,)))
    general = case._replace(kind=Exception, attempt=lambda _: int("x"))
    with pytest.raises(AssertionError, match="is no Exception"):
        list(bad_input.tried((general,)))
