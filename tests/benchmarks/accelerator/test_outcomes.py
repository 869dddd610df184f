"""What became of pieces: what was reached, what is handed in, how one was begun."""

import dataclasses
import json

import pytest

from benchmarks.accelerator import plan
from benchmarks.accelerator.cards import Card
from benchmarks.accelerator.costs import Cost
from benchmarks.accelerator.outcomes import Begun, begun, hand_in, reached
from benchmarks.accelerator.pieces import Piece, trained_for
from benchmarks.accelerator.plan import Fitted, Planned
from benchmarks.accelerator.work import Work
from benchmarks.harness import registry
from benchmarks.harness.everything import FINISHED, INTERRUPTED, STOPPED, Job, Outcome
from common.results.records import json_ready

PIECE = Piece("line", 0.5, 0.1, "it is so", {"wide": 2}, {"wide": 1}, lambda *_: (), trained_for)


@dataclasses.dataclass(frozen=True)
class Settings:
    epochs: int = 10
    wide: int = 3


def nothing():
    raise AssertionError("no step is counted here")


def outcome(folder, name, status, minutes=1.0):
    return Outcome(Job(name, True, (), folder / name), status, minutes)


def test_what_is_finished_is_handed_in_whatever_else_is_not(tmp_path):
    for name, text in (("a", "{}\n"), ("b", "{}\n"), ("c", ""), ("d", "{}\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "records.jsonl").write_text(text)
    ends = {"a": FINISHED, "b": INTERRUPTED, "c": STOPPED, "d": FINISHED, "e": STOPPED}
    outcomes = [outcome(tmp_path, name, status) for name, status in ends.items()]
    taken, unfinished = hand_in(outcomes, tmp_path).splitlines()
    assert taken.endswith(f"report --take {tmp_path / 'a'} {tmp_path / 'd'}")
    assert f"Unfinished, with records: {tmp_path / 'b'}." in unfinished
    assert hand_in([outcome(tmp_path, "c", STOPPED)], tmp_path) == ""


def test_what_was_reached_is_of_finished_pieces_and_of_the_peak_of_their_numbers(tmp_path):
    def planned(name, *halves):
        works = tuple(Work(name, nothing, 100.0, 0, 0.0, half=half) for half in halves)
        costs = tuple(Cost(6e12, 0) for _ in works)
        piece = PIECE._replace(name=name)
        return Planned(piece, Settings(), Fitted(), 10, 3, 1.0, works, costs, 0.5)

    every = [planned("a", True), planned("b", False), planned("c", True, False), planned("d", True)]
    ends = {"a": FINISHED, "b": FINISHED, "c": FINISHED, "d": STOPPED}
    outcomes = [outcome(tmp_path, name, status, 2.0) for name, status in ends.items()]
    said = reached(outcomes, every, Card("X", 100e12, 50e12), "an X")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines()[4:]]
    # 6e14 operations in two minutes: 5 TFLOP/s, of 100 and of 50.
    assert [row[0] for row in rows] == ["a", "b", "c"]
    assert [row[4] for row in rows] == ["5", "5", "10"]
    assert [row[5] for row in rows] == ["5", "10", "-"]
    assert "What was reached on an X" in said
    assert reached(outcomes[3:], every, Card("X", 1.0, 1.0), "an X") == ""


@pytest.fixture
def preset(line, monkeypatch):
    line()
    monkeypatch.setattr(registry.load("line"), "PRESETS", {"full": Settings()})


@pytest.mark.parametrize(
    "fitted", [Fitted(), Fitted(epochs=3), Fitted(narrow=True), Fitted(True, 1)]
)
def test_a_run_that_is_gone_on_with_is_fitted_as_it_was(fitted, preset, tmp_path):
    settings = plan.settings_of(PIECE, "full", narrow=fitted.narrow, epochs=fitted.epochs)
    manifest = {"configuration": json_ready(dataclasses.asdict(settings)), "seeds": [0, 1]}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert begun(PIECE, "full", tmp_path) == Begun(fitted, 2)
    other = PIECE._replace(changes={"wide": 7}, narrow={"wide": 8})
    assert begun(other, "full", tmp_path) is None


@pytest.mark.parametrize("text", [None, "{", "[]", '{"configuration": {}, "seeds": [0]}'])
def test_where_nothing_of_a_piece_was_begun_nothing_is_taken_from_it(text, preset, tmp_path):
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    assert begun(PIECE, "full", tmp_path) is None
