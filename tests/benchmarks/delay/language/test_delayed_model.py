"""A run of the experiment from end to end, small."""

import dataclasses

import jax
import numpy as np
import pytest

from benchmarks.delay.language import delayed_model, rules
from benchmarks.delay.language.network import Size
from benchmarks.delay.language.settings import PROFILE, Settings
from benchmarks.delay.language.stages import stages_of
from benchmarks.harness.registry import Context
from common.progress import Silent

SETTINGS = dataclasses.replace(
    delayed_model.PRESETS["smoke"], size=Size(width=8, heads=2, layers=1, length=8),
    optimisers=(rules.ADAMW,), rows=(rules.NOTHING, rules.PREDICTION), steps=8, points=2,
    learning_rates=(0.001, 0.01), watched=2, held_out=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def records():
    context = Context(seeds=(0, 1), data_dir=None, progress=Silent())
    with jax.numpy_dtype_promotion("standard"):  # optax.adamw divides floats by integers
        return list(delayed_model.run(SETTINGS, context))


def test_records_are_complete_and_finite(records):
    found = {(r.method, r.setting["delay"], r.seed) for r in records}
    runs = {(rules.NOTHING, d) for d in ("0", "2", PROFILE)}
    runs |= {(rules.PREDICTION, d) for d in ("2", PROFILE)}
    assert found == {(rule, delay, seed) for rule, delay in runs for seed in (0, 1)}
    for record in records:
        losses = [record.metrics[name] for name in ("validation_loss", "test_loss")]
        assert np.isfinite(losses).all()
        assert np.isfinite(record.curve["validation_loss"]).all()
        assert record.curve["tokens"] == [128.0, 256.0]
        assert len(str(record.setting["text"])) == 16
    first = [r for r in records if r.seed == 0 and r.setting["delay"] == "2"]
    assert len(first) == 2 * len(SETTINGS.learning_rates)


def test_staleness_is_that_of_the_delay(records):
    for record in records:
        least, largest = (record.metrics[f"{x}_staleness"] for x in ("least", "largest"))
        expected = {"0": (0, 0), "2": (2, 2), PROFILE: (0, SETTINGS.stages - 1)}
        assert (least, largest) == expected[str(record.setting["delay"])]


def test_delay_and_prediction_make_a_difference(records):
    at = {
        (r.method, r.setting["delay"]): r.metrics["test_loss"]
        for r in records
        if r.seed == 0 and r.setting["learning_rate"] == 0.01
    }
    assert len(set(at.values())) == len(at) == 5


def test_report(records, tmp_path):
    text = delayed_model.tables(records)
    assert "AdamW, no delay" in text
    assert "The profile of a pipeline" in text
    assert "Not run" not in text
    asked = {"configuration": dataclasses.asdict(SETTINGS)}
    early = [dataclasses.replace(r, origin=asked) for r in records if r.method == rules.NOTHING]
    assert "Not run: AdamW, prediction, 2; AdamW, prediction, profile." in delayed_model.tables(
        early
    )
    made = {path.name for path in delayed_model.plots(records, tmp_path)}
    assert made == set(delayed_model.CAPTIONS)
    head = next(line for line in text.splitlines() if line.startswith("| row"))
    column = [cell.strip() for cell in head.split("|")].index("times the text")
    for line in text.splitlines():
        if line.startswith("| AdamW"):
            cell = line.split("|")[column].strip()
            measured = cell.startswith(("over 2", *"0123456789"))
            assert cell == "" if line.startswith("| AdamW, no delay") else measured, line


def test_every_row_is_run_at_the_main_delays_and_the_extra_ones_with_the_profile():
    names = list(stages_of(Settings(delays=(0, 2, 4), main_delays=(4,))))
    assert names[0] == "Muon, no rule"
    for rule in rules.RULES[1:]:
        assert f"Muon, {rule}, 4" in names
        assert (f"Muon, {rule}, {PROFILE}" in names) == (rule == rules.PREDICTION)


@pytest.mark.parametrize(
    "changes",
    [{"delays": (2,)}, {"main_delays": (3,)}, {"points": 5}, {"learning_rates": (0.1,)}],
)
def test_settings_that_do_not_go_together_are_refused(changes):
    with pytest.raises(ValueError, match="must be"):
        Settings(**changes)
    with pytest.raises(ValueError, match="must"):
        dataclasses.replace(SETTINGS, **changes)
