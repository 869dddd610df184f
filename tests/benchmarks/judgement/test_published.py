"""Published figures beside ours: ours follow the records, and a row without any says so."""

import dataclasses

from benchmarks.harness.halving import TUNING
from benchmarks.judgement import published
from benchmarks.judgement.claims import CLAIMS
from benchmarks.judgement.finding import Finding
from common.results.records import Record

ORIGIN = {
    "benchmark": "x", "preset": "cpu", "command": "python -m benchmarks x", "seeds": [0, 1, 2],
    "configuration": {"epochs": 7, "train_size": 500, "width": 0.25},
    "provenance": {"git_commit": "0" * 40, "device": {"count": 1, "kind": "cpu", "cores": 2}},
}  # fmt: skip


def runs(method, setting, **metrics):
    return [
        Record(method=method, setting=setting, seed=seed, metrics=metrics, wall_time=0.0,
               origin=ORIGIN)
        for seed in range(3)
    ]  # fmt: skip


def cell(measured, title):
    """Our figures and our protocol in the row of a title."""
    (line,) = (line for line in published.page(measured).splitlines() if f"| {title} |" in line)
    cells = [part.strip() for part in line.strip("|").split("|")]
    assert len(cells) == 6
    return cells[3], cells[4]


def test_rows_without_records_say_so():
    for row in published.ROWS:
        ours, protocol = cell({}, row.title)
        assert ours == "no record yet"
        assert protocol.startswith(f"`{row.experiment}`: ")


def test_every_rule_of_the_cluster_is_at_its_best_step_with_its_workers():
    records = [
        record
        for workers, right in ((4, 0.9), (8, 0.8))
        for rate, loss in ((0.1, 0.0), (0.2, 0.3))
        for record in runs("ASGD", {"workers": workers, "learning_rate": rate},
                           validation_accuracy=right - loss, test_accuracy=right - loss)
    ]  # fmt: skip
    records += runs("SGD", {"workers": 1}, validation_accuracy=0.95, test_accuracy=0.95)
    measured = {"dcasgd_cifar10": records}
    ours, protocol = cell(measured, "ResNet-20, CIFAR-10, 4 workers")
    assert ours == "test error %: ASGD 10.00 ± 0.00, SGD 5.00 ± 0.00"
    assert "ASGD 20.00" in cell(measured, "ResNet-20, CIFAR-10, 8 workers")[0]
    for part in (
        "preset cpu; 7 epochs; 500 images; 0.25 times the full width", "3 seeds",
        "up to 4 settings", "`python -m benchmarks x`, commit 000000000000, 2 CPU cores",
    ):  # fmt: skip
        assert part in protocol


def test_the_plain_network_is_shown_at_the_published_step():
    records = [
        record
        for method in ("SGD", "G-SGD", "Path-SGD", "Adam")
        for rate in (0.1, 1.0)
        for record in runs(method, {"network": "plain-14", "learning_rate": rate},
                           test_accuracy=0.5 + 0.1 * rate)
    ]  # fmt: skip
    ours, _ = cell({"gsgd_cifar10": records}, "plain-34, CIFAR-10, at step 1.0")
    assert ours == ("test accuracy % in the end, plain-14: SGD 60.00 ± 0.00, G-SGD 60.00 ± 0.00")
    other = [dataclasses.replace(r, setting={**r.setting, "network": "ResNet-14"}) for r in records]
    ours, _ = cell({"gsgd_cifar10": [*other, *records]}, "plain-34, CIFAR-10, at step 1.0")
    assert ", plain-14: " in ours
    # Halving: at step 1.0 SGD had three epochs, and G-SGD all of them too.
    fewer = [dataclasses.replace(r, setting={**r.setting, TUNING: 3}) for r in other]
    whole = [r for r in other if r.method == "G-SGD"]
    ours, _ = cell({"gsgd_cifar10": [*fewer, *whole]}, "plain-34, CIFAR-10, at step 1.0")
    assert ours == (
        "test accuracy % at the end of short runs of 3 epochs, ResNet-14: SGD 60.00 ± 0.00, "
        "G-SGD 60.00 ± 0.00"
    )
    none = [r for r in records if r.setting["learning_rate"] == 0.1]
    ours, _ = cell({"gsgd_cifar10": none}, "plain-34, CIFAR-10, at step 1.0")
    assert ours == "no record yet"


def test_both_versions_of_coloured_digits_have_a_row():
    records = [
        record
        for noise, right in ((0.0, 0.9), (0.25, 0.1))
        for record in runs("LaCIM", {"label_noise": noise}, validation_accuracy=right,
                           test_accuracy=right)
    ]  # fmt: skip
    records += runs("probe", {"label_noise": 0.0, "picture": 1})
    measured = {"lacim_colored_digits": records}
    assert "LaCIM 90.00" in cell(measured, "LaCIM's coloured MNIST, no labels flipped")[0]
    flipped = "coloured MNIST, a quarter of the labels flipped"
    assert cell(measured, flipped)[0] == "test accuracy %: LaCIM 10.00 ± 0.00"
    measured = {"lacim_colored_digits": records[:3]}
    assert cell(measured, flipped)[0] == "no record yet"


def test_mcc_is_that_of_enough_domains():
    records = [
        *runs("LaCIM", {"num_domains": 5, "confounder": "continuous"}, s_within=0.9),
        *runs("Pool-LaCIM", {"num_domains": 5, "confounder": "continuous"}, s_within=0.8),
    ]
    needed = [
        dataclasses.replace(r, method="inverse mixing", metrics={"needed_s": 5.0})
        for r in records[:1]
    ]
    ours, _ = cell({"lacim_identifiability": [*records, *needed]}, "iVAE's MCC")
    assert ours == "MCC of s within 5 domains: LaCIM 0.900 ± 0.000, Pool-LaCIM 0.800 ± 0.000"
    few = [dataclasses.replace(needed[0], metrics={"needed_s": 9.0})]
    assert cell({"lacim_identifiability": [*records, *few]}, "iVAE's MCC")[0] == "no record yet"


def test_copies_are_shown_at_the_published_step_and_at_their_own():
    records = [
        record
        for method, at in (("as drawn", (0.2, 0.6)), ("conditioned once", (0.4, 0.6)))
        for rate, right in zip((0.001, 0.1), at, strict=True)
        for record in runs(method, {"network": "CNN 8-8", "learning_rate": rate},
                           validation_accuracy=right, test_accuracy=right)
    ]  # fmt: skip
    title = "PathCond: the best conditioned copy"
    ours, _ = cell({"gsgd_conditioning": records}, title)
    assert "perceptrons, 0.001, conditioned once 40.00 ± 0.00, as drawn 20.00 ± 0.00; each" in ours
    assert "each at its best step conditioned once 60.00 ± 0.00, as drawn 60.00" in ours
    without = [dataclasses.replace(r, setting={**r.setting, "network": "MLP"}) for r in records]
    assert cell({"gsgd_conditioning": without}, title)[0] == "no record yet"


def test_a_claim_that_rests_on_the_experiment_lends_its_headline(monkeypatch):
    title = "rules for delayed gradients on a language model"
    measured = {"delayed_language_model": runs("Muon", {"delay": 8}, loss=1.0)}
    others = [claim for claim in CLAIMS if claim.needed != "delayed_language_model"]
    monkeypatch.setattr(published, "CLAIMS", others)
    assert cell(measured, title)[0] == "no record yet"
    judging = others[0]._replace(
        experiments=("delayed_language_model",), needed="delayed_language_model",
        judge=lambda found: Finding("holds", "46% of the gap", ""),
    )  # fmt: skip
    monkeypatch.setattr(published, "CLAIMS", [*others, judging])
    assert cell(measured, title)[0] == "46% of the gap"
