"""The LaCIM experiment: every run is recorded, and its tables and plots read records only."""

import collections
import dataclasses
import math

import jax
import numpy as np
import pytest

from benchmarks.harness.registry import Context
from benchmarks.harness.stages import Stages
from benchmarks.latent import colored_digits as lacim_colored_digits
from benchmarks.latent.colored import diagnosis
from benchmarks.latent.trials import trials
from common.progress import Silent
from common.results.records import Record, RecordWriter, read_records
from common.results.tables import group

SETTINGS = dataclasses.replace(
    lacim_colored_digits.PRESETS["smoke"],
    methods=("ERM", "LaCIM"), data="digits8x8", pool=1, label_noises=(0.25, 0.0), widths=(8,),
    s_dim=3, v_dim=2, epochs=1, trials=2, batch_size=64, search_steps=(0, 1, 4),
)  # fmt: skip


@pytest.fixture(scope="module")
def records():
    context = Context(seeds=(0, 3), data_dir=None, progress=Silent())
    # optax.adam corrects its bias by decay ** count, float32 by int32.
    with jax.numpy_dtype_promotion("standard"):
        return list(lacim_colored_digits.run(SETTINGS, context))


def is_search(record):
    return "search_weight" in record.setting


def is_picture(record):
    return "picture" in record.setting


def is_diagnosis(record):
    return "diagnosis" in record.setting


def test_there_is_one_record_for_every_run(records):
    others = (is_search, is_picture, is_diagnosis)
    trained = [r for r in records if not any(other(r) for other in others)]
    runs = collections.Counter((r.method, r.setting["label_noise"], r.seed) for r in trained)
    wanted = [
        (method, noise, seed)
        for method in SETTINGS.methods
        for noise in (0.25, 0.0)
        for seed in (0, 3)
    ]
    assert runs == dict.fromkeys(wanted, SETTINGS.trials)
    for record in trained:
        assert 0 <= record.metrics["validation_accuracy"] <= 1
        # What has no encoder for the test domain is judged by its search alone.
        assert ("test_accuracy" in record.metrics) == (record.method == "ERM")


def test_only_the_chosen_search_sees_the_test_domain(records):
    searches = [r for r in records if is_search(r)]
    assert len(searches) == 2 * 2 * len(SETTINGS.search_weights)
    for noise in (0.25, 0.0):
        own = [r for r in searches if r.setting["label_noise"] == noise]
        tested = [r for r in own if "test_accuracy" in r.curve]
        assert sorted(r.seed for r in tested) == [0, 3]
        best = {
            weight: np.mean([max(r.curve["validation_accuracy"]) for r in runs])
            for weight, runs in group(own, lambda r: r.setting["search_weight"]).items()
        }
        assert set(best) == set(SETTINGS.search_weights)
        (chosen,) = {r.setting["search_weight"] for r in tested}
        assert best[chosen] == max(best.values())
        i = int(np.mean([r.curve["validation_accuracy"] for r in tested], axis=0).argmax())
        for record in tested:
            assert list(record.curve["step"]) == list(SETTINGS.search_steps)
            assert record.metrics["step"] == SETTINGS.search_steps[i]
            assert record.metrics["test_accuracy"] == record.curve["test_accuracy"][i]
            assert np.all(np.diff(record.curve["test_objective"]) >= 0)


def test_what_the_chosen_models_hold_is_measured(records):
    found = [r for r in records if is_diagnosis(r)]
    assert [(r.setting["label_noise"], r.seed) for r in found] == [
        (0.25, 0), (0.25, 3), (0.0, 0), (0.0, 3),
    ]  # fmt: skip
    for record in found:
        noise, figures = record.setting["label_noise"], record.metrics
        assert all(0.2 < figures[name] <= 1 for name in figures if "tells" in name)
        assert figures["label_given_both"] <= figures["label_given_color"]
        # Of unflipped labels the digit leaves nothing; of flipped ones the colour tells more.
        assert (figures["label_given_digit"] == 0) == (noise == 0)
        gap = figures["label_given_digit"] - figures["label_given_both"]
        assert (gap > 0.1) == (noise > 0)


def test_a_probe_finds_what_is_there_and_no_more():
    generator = np.random.default_rng(0)
    target = generator.integers(0, 2, 4000)
    told = np.stack([generator.normal(size=4000), target + 0.01 * generator.normal(size=4000)], -1)
    assert diagnosis.probe(told, target) == 1
    assert 0.45 < diagnosis.probe(told[:, :1], target) < 0.55
    # Three quarters right: log 2 of a fair coin's, and of what it says of another.
    noisy = target ^ (generator.uniform(size=4000) < 0.25)
    quarter = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert diagnosis.conditional_entropy(noisy, target) == pytest.approx(quarter, abs=0.03)
    assert diagnosis.conditional_entropy(target, target) == 0


def test_all_methods_try_equally_many_settings_and_the_same_learning_rates():
    settings = dataclasses.replace(SETTINGS, trials=5)
    methods = {m: lacim_colored_digits.method_of(m) for m in lacim_colored_digits.METHODS}
    tried = {name: trials(settings, method) for name, method in methods.items()}
    rates = [[trial["learning_rate"] for trial in of_method] for of_method in tried.values()]
    assert all(each == rates[0] for each in rates)
    spans = {"learning_rate": settings.learning_rates, **methods["LaCIM"].ranges}
    assert set(spans) == {"learning_rate", "beta", "label_weight"}
    for name, (low, high) in spans.items():
        position = [math.log(t[name] / low) / math.log(high / low) for t in tried["LaCIM"]]
        assert sorted(math.floor(5 * p) for p in position) == [0, 1, 2, 3, 4]


def test_tables_and_plots_come_from_records_as_they_are_read_back(records, tmp_path):
    writer = RecordWriter(tmp_path / "records.jsonl", origin={})
    for record in records:
        writer.write(record)
    back = read_records(tmp_path / "records.jsonl")
    table = lacim_colored_digits.tables(back)
    assert table == lacim_colored_digits.tables(records)
    assert table.count("| ERM ") == 2
    assert table.count("| LaCIM ") == 6
    assert table.count("given both") == 2
    written = lacim_colored_digits.plots(back, tmp_path)
    assert [path.name for path in written] == ["search_steps.png", "accuracy.png", "latents.png"]
    assert all(path.stat().st_size > 5_000 for path in written)


def planted(method, rate, validation, test, **more):
    setting = {"label_noise": 0.0, "learning_rate": rate, **more.pop("setting", {})}
    metrics = {"validation_accuracy": validation, "test_accuracy": test, **more.pop("metrics", {})}
    return Record(method=method, setting=setting, seed=0, metrics=metrics, wall_time=0.0, **more)


def test_everything_is_chosen_on_validation_data_alone():
    searched = planted(
        "LaCIM", 0.1, 0.9, 0.4, setting={"search_weight": 1.0}, metrics={"step": 10.0},
        curve={"step": [0, 10], "validation_accuracy": [0.8, 0.9], "test_accuracy": [0.99, 0.4]},
    )  # fmt: skip
    records = [
        planted("ERM", 0.1, 0.9, 0.5),
        planted("ERM", 0.3, 0.8, 0.98),
        planted("LaCIM", 0.1, 0.9, 0.0),
        searched,
    ]
    table = lacim_colored_digits.tables(records).split("\n\n")[1]
    erm, lacim = table.splitlines()[2:]
    cells = [cell.strip() for cell in erm.split("|")[1:-1]]
    assert cells[:5] == ["ERM", "rate 0.1", "90.00 (n = 1)", "50.00 (n = 1)", "-"]
    cells = [cell.strip() for cell in lacim.split("|")[1:-1]]
    assert cells[3:] == ["40.00 (n = 1)", "10", "99.00 (n = 1)", "40.00 (n = 1)"]


def test_diverged_runs_are_named():
    nan = float("nan")
    searched = planted(
        "LaCIM", 0.1, nan, nan, setting={"search_weight": 1.0}, metrics={"step": 0.0},
        curve={"step": [0, 10], "validation_accuracy": [nan, nan], "test_accuracy": [nan, nan]},
    )  # fmt: skip
    table = lacim_colored_digits.tables([planted("LaCIM", 0.1, nan, nan), searched])
    assert table.split("\n\n")[1].count("diverged (1 of 1)") == 4


def test_training_that_is_on_record_is_not_lost_with_its_search(records, standard_promotion):
    """Gone on with after its training, a method searches the weights that it had."""
    names, found = [], []

    class Listed(Stages):
        def of(self, name, make):
            names.append(name)
            if name.startswith("LaCIM, search, label noise 0.25"):
                found.extend(make())
            return iter(())

    context = Context(seeds=(0, 3), data_dir=None, progress=Silent(), stages=Listed())
    assert list(lacim_colored_digits.run(SETTINGS, context)) == []
    searches = [f"LaCIM, search, label noise {noise}" for noise in ("0.25", "0")]
    assert names == ["ERM", "LaCIM", *searches]
    before = [r for r in records if r.setting["label_noise"] == 0.25 and is_search(r)]
    again = [r for r in found if is_search(r)]
    assert [(r.setting, r.seed, r.metrics) for r in again] == [
        (r.setting, r.seed, r.metrics) for r in before
    ]
