"""Tables and figures of methods that learn from several domains, from their records alone."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from benchmarks.harness.figures import dots_figure
from benchmarks.harness.reports import best_by_method, values
from common.results.records import Record
from common.results.tables import markdown, metric, number, percent

RULES = {
    "training domains": "validation_accuracy",
    "left-out domain": "left_out_accuracy",
    "invariance": "invariant_accuracy",
    "oracle": "oracle_accuracy",
}
"""What settings are chosen by, and the metric that each rule looks at."""

_OF_THE_TASK = {"label_noise", "strength"}
"""Settings that are the same in all of a table's records."""

_UNCERTAINTY = {
    "test_calibration_error": "calibration error",
    "confidence_auroc": "AUROC, doubt",
    "disagreement_auroc": "disagreement",
    "bound_auroc": "bound",
}

CAPTIONS = {
    "selection.png": "Test accuracy of each method, its settings chosen by each rule: dots are "
    "seeds, the mark their mean with one standard deviation. Chosen on training domains all "
    "follow the colour, which is wrong in 90% of the test images; what an oracle can find is "
    "at the right."
}

Chosen = TypeVar("Chosen")


def by_rule(
    records: Sequence[Record], choose: Callable[[Sequence[Record], str], Chosen]
) -> dict[str, Chosen]:
    """What each rule chooses, by its metric, among the records that have it."""
    known = {
        rule: [record for record in records if criterion in record.metrics]
        for rule, criterion in RULES.items()
    }
    return {rule: choose(tried, RULES[rule]) for rule, tried in known.items() if tried}


def chosen(records: Sequence[Record]) -> dict[str, dict[str, list[Record]]]:
    """For each rule and method, the records of the setting chosen, one a seed."""
    return by_rule(records, best_by_method)


def tables(records: Sequence[Record]) -> str:
    """Test accuracy as chosen by each rule; then what the first rule's choice is worth."""
    rules = chosen(records)
    methods = list(dict.fromkeys(record.method for record in records))
    rows = [
        [method, *(percent(metric(of[method], "test_accuracy")) for of in rules.values())]
        for method in methods
    ]
    accuracy = markdown(["test %, chosen by", *rules], rows)
    rows = []
    for method in methods:
        runs = rules["training domains"][method]
        row = [method, _setting(runs[0]), percent(metric(runs, "validation_accuracy"))]
        for name in _UNCERTAINTY:
            known = all(name in record.metrics for record in runs)
            row.append(number(metric(runs, name)) if known else "-")
        rows.append(row)
    header = ["chosen on training domains", "setting", "validation %", *_UNCERTAINTY.values()]
    return (
        f"{accuracy}\n\nCalibration on the test domain; and how well its images are distinguished "
        "from those of the training domains (AUROC; 0.5 is chance) by the doubt 1 - max p(y|x), "
        f"and by what a latent search leaves:\n\n{markdown(header, rows)}"
    )


def _setting(record: Record) -> str:
    shown = {k: v for k, v in record.setting.items() if k not in _OF_THE_TASK}
    return ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in shown.items())


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """One panel a rule: test accuracy of every method."""
    scores = {
        rule: {method: values(runs, "test_accuracy") for method, runs in methods.items()}
        for rule, methods in chosen(records).items()
    }
    return [rules_figure(scores, out / "selection.png", label="test accuracy, %")]


def rules_figure(
    scores: Mapping[str, Mapping[str, Sequence[float]]], path: Path, *, label: str
) -> Path:
    """A panel for each rule of selection, a row of dots for each method."""
    panels = {f"chosen by {rule}": rows for rule, rows in scores.items()}
    return dots_figure(path, panels, label=label, scale=100)


def diversity_rows(
    known: Sequence[Sequence[Record]], suffix: str, rank: str, condition: str
) -> Iterator[list[str]]:
    """Two rows of a table: the rank of the domains' differences, and their condition number.

    Args:
        known: for each number of domains, the records that have the metrics, a seed each.
        suffix: of the metrics, behind "rank" and "condition".
        rank: what the first row is called.
        condition: what the second is called.
    """
    yield [rank, *(number(metric(runs, f"rank{suffix}"), digits=0) for runs in known)]
    # Where the rank is not full there is no condition number, which is no divergence.
    found = [metric(runs, f"condition{suffix}") for runs in known]
    yield [condition, *(number(each, digits=1) if each.n else "-" for each in found)]
