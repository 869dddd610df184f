"""Tables and figures of pseudo-labels in the test domain, from records alone."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.figures import dots_figure
from benchmarks.harness.reports import by_method, met, paired, values, where
from common.results.records import Record
from common.results.tables import markdown, metric, number, percent

STABLE, AS_TRAINED = "s alone", "s and v as in training"
ADAPTED, ALL_ADAPTED = "s and v, adapted", "s and all of v, adapted"
SEEN = "v, test labels seen"
LACIM, VREX = "Invariant LaCIM", "V-REx"
VREX_OWN, VREX_ERM = "V-REx and its own features, adapted", "V-REx and ERM's features, adapted"
TARGET, CEILING = 0.80, 0.75  # of test images

CAPTIONS = {
    "pseudo_labels.png": "Test accuracy of each way to answer, of the same networks: dots are "
    "seeds, the mark their mean with one standard deviation. The line is what digits alone allow.",
}


def tables(records: Sequence[Record]) -> str:
    """Test accuracy of every way to answer; the verdict; how good the pseudo-labels were."""
    rows = []
    for name, runs in by_method(records).items():
        worst = f"{100 * min(values(runs, 'test_accuracy')):.1f}"
        known = "unstable_accuracy" in runs[0].metrics
        alone = percent(metric(runs, "unstable_accuracy")) if known else "-"
        rows.append([name, percent(metric(runs, "test_accuracy")), worst, alone])
    table = markdown(["answered by", "test %", "worst seed", "by v alone, adapted %"], rows)
    stable, adapted = where(records, STABLE), where(records, ADAPTED)
    found = metric(adapted, "test_accuracy")
    accepted = sum(p > 0.05 for p in values(stable, "invariance_p"))
    held_out = percent(metric(stable, "validation_accuracy"))
    rate = number(metric(adapted, "pseudo_label_rate"))
    lines = [
        f"- {ADAPTED}: {percent(found)} (target {100 * TARGET:g}: {met(found.mean, TARGET)})",
        *(_over(adapted, where(records, other), other) for other in (STABLE, VREX_OWN, VREX_ERM)),
        f"- {STABLE} has {held_out} on held-out images of the training domains, where the test of "
        f"invariance accepts {accepted} of {len(stable)}",
        f"- by its own account a pseudo-label is right with probability {rate}",
    ]
    return table + "\n\n" + "\n".join(line for line in lines if line)


def _over(runs: Sequence[Record], others: Sequence[Record], name: str) -> str:
    """By how much one way to answer is better than another, seed by seed; empty without both."""
    if not others:
        return ""
    better = sum(a > b for a, b in zip(*(_by_seed(r) for r in (runs, others)), strict=True))
    difference = percent(paired(runs, others))
    return f"- over {name}: {difference} points, better in {better} of {len(others)} seeds"


def _by_seed(runs: Sequence[Record]) -> list[float]:
    return values(sorted(runs, key=lambda run: run.seed), "test_accuracy")


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """Test accuracy by way to answer."""
    scores = {name: values(runs, "test_accuracy") for name, runs in by_method(records).items()}
    path = out / "pseudo_labels.png"
    return [
        dots_figure(
            path,
            {"coloured digits": scores},
            label="test accuracy, %",
            scale=100,
            reference=100 * CEILING,
        )
    ]
