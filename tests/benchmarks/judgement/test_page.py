"""Pages of claims: what they say and link to follows from the records."""

import dataclasses

import pytest

from benchmarks.delay.report import ADAPTIVE, ASGD
from benchmarks.harness import registry
from benchmarks.harness.registry import NAMES
from benchmarks.judgement import page
from benchmarks.judgement.claims import CLAIMS, NOT_MEASURED, judged
from benchmarks.judgement.finding import UNDECIDED, Finding
from benchmarks.judgement.page import (
    BEGIN,
    END,
    came_from,
    claim_sections,
    claim_table,
    verdicts_on,
    with_claims,
)
from common.results.records import Record, json_ready
from tests.benchmarks.judgement.made_up import delayed

ORIGIN = {
    "command": "python -m benchmarks line",
    "preset": "smoke",
    "provenance": {"git_commit": "0" * 40, "device": {"count": 1, "kind": "cpu", "cores": 2}},
}


def timed(ratio):
    metrics = {"ratio": ratio, "compile_ratio": ratio}
    return [
        Record(method="G-SGD", setting={"network": "plain-34"}, seed=0, metrics=metrics,
               wall_time=0.0, origin=ORIGIN)
    ]  # fmt: skip


def test_every_claim_names_experiments_there_are_and_is_not_judged_without_its_own():
    for claim in CLAIMS:
        assert claim.needed in claim.experiments
        assert set(claim.experiments) <= set(NAMES)
        assert judged(claim, {}).verdict == NOT_MEASURED


def test_sections_and_table_say_the_verdict_its_source_and_link_to_each_other(tmp_path):
    measured = {"gsgd_speed": timed(1.0)}
    figure = tmp_path / "gsgd_speed" / "cpu_ratio.png"
    sections = claim_sections(measured, {"speed": figure.relative_to(tmp_path)})
    assert "### 7. Speed: holds" in sections
    assert "`python -m benchmarks line`, commit 000000000000, 2 CPU cores." in sections
    assert "![speed](gsgd_speed/cpu_ratio.png)" in sections
    table = claim_table(measured, "pages/README.md")
    assert "[speed](pages/README.md#7-speed-holds)" in table
    assert (
        "| **holds** | targets met: step in path space 1 of 1<br>nearest: step in path space, "
        "plain-34, 1.00" in table
    )


def test_every_clause_of_a_headline_has_a_line_but_for_those_in_brackets(monkeypatch):
    said = "better in 2 of 9 (most: x, +1 point), not decided in 3 (2: blind; 1: edge); then: no"
    finding = Finding(UNDECIDED, said, "")
    monkeypatch.setattr(page, "judged", lambda claim, measured: finding)
    row = claim_table({}, "README.md").splitlines()[2]
    assert row.endswith(
        "| better in 2 of 9 (most: x, +1 point), not decided in 3 (2: blind; 1: edge)<br>then: no |"
    )


@pytest.mark.parametrize(
    ("recorded", "settings", "said"),
    [
        ("day", "day", ""),
        ("cpu", "day", "; that preset is called `day` today"),
        ("cpu", "none", "; that preset has other settings today"),
    ],
)
def test_where_records_came_from_says_what_their_command_does_today(recorded, settings, said):
    presets = registry.load("gsgd_mlp").PRESETS
    configuration = json_ready(dataclasses.asdict(presets["day"]))
    if settings == "none":
        configuration["epochs"] = 1234
    origin = {**ORIGIN, "preset": recorded, "configuration": configuration}
    made = "`python -m benchmarks line`, commit 000000000000, 2 CPU cores"
    record = Record(
        method="SGD", setting={}, seed=0, metrics={}, wall_time=0.0, origin={**origin, "run": "1"}
    )
    assert came_from("gsgd_mlp", [record]) == made + said


def test_a_table_replaces_what_stood_between_the_markers():
    assert with_claims(f"a\n{BEGIN}\nold\n{END}\nb", "new") == f"a\n{BEGIN}\nnew\n{END}\nb"
    with pytest.raises(ValueError, match="needs the lines"):
        with_claims(f"a\n{END}\n{BEGIN}\nb", "new")


def test_an_experiments_page_says_what_is_judged_with_it():
    measured = {"gsgd_speed": timed(1.0), "lacim_speed": []}
    said = verdicts_on("gsgd_speed", measured, "README.md")
    assert "**Belongs to the claim [speed](README.md#7-speed-holds): holds.**" in said
    assert "Targets met: step in path space 1 of 1" in said
    assert verdicts_on("preemption", measured, "README.md") == ""


def test_records_of_other_images_than_the_claims_do_not_belong_to_it():
    """ImageNet's commands run on other images too, to show that they do."""
    digits = delayed({ASGD: (0.9,), ADAPTIVE: (0.9,)}, rates=(0.1,))
    other = {**ORIGIN, "configuration": {"data": "imagenet_resized/8x8"}}
    measured = {
        "dcasgd_digits": [dataclasses.replace(r, origin=ORIGIN) for r in digits],
        "dcasgd_imagenet": [dataclasses.replace(r, origin=other) for r in digits],
    }
    assert "delay compensation" in verdicts_on("dcasgd_digits", measured, "README.md")
    assert verdicts_on("dcasgd_imagenet", measured, "README.md") == ""
    assert "**From:** [dcasgd_digits](dcasgd_digits.md). " in claim_sections(measured, {})
    real = {**ORIGIN, "configuration": {"data": "imagenet2012"}}
    measured["dcasgd_imagenet"] = [dataclasses.replace(r, origin=real) for r in digits]
    assert "delay compensation" in verdicts_on("dcasgd_imagenet", measured, "README.md")
