"""Tables and figures of methods that learn from several domains, from their records alone."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from benchmarks.harness.figures import dots_figure
from benchmarks.harness.reports import best_by_method, by_method, marked, numeric, values, where
from common.results.records import Record
from common.results.tables import markdown, metric, number, percent

RULES = {
    "training domains": "validation_accuracy",
    "left-out domain": "left_out_accuracy",
    "invariance": "invariant_accuracy",
    "oracle": "oracle_accuracy",
}
"""What settings are chosen by, and the metric that each rule looks at."""

_OF_THE_TASK = {"label_noise", "strength", "test_domain"}
"""Settings that say what methods are compared on."""

_SEARCHED = "search_steps"
"""The setting that is tried afterwards, with the trials that a rule chose without it."""

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
        setting = _setting(runs, where(records, method))
        row = [method, setting, percent(metric(runs, "validation_accuracy"))]
        for name in _UNCERTAINTY:
            known = all(name in record.metrics for record in runs)
            row.append(number(metric(runs, name)) if known else "-")
        rows.append(row)
    header = ["chosen on training domains", "setting", "validation %", *_UNCERTAINTY.values()]
    return (
        f"{accuracy}\n\nCalibration on the test domain; and how well its images are distinguished "
        "from those of the training domains (AUROC; 0.5 is chance) by the doubt 1 - max p(y|x), "
        f"and by what a latent search leaves:\n\n{markdown(header, rows)}\n\n{tried_table(records)}"
    )


def _setting(runs: Sequence[Record], tried: Sequence[Record]) -> str:
    """What was chosen, its learning rate marked at the edge of those that were tried."""
    shown = {name: f"{value:g}" for name, value in _tuned(runs[0]).items()}
    if "learning_rate" in shown:
        shown["learning_rate"] = marked("learning_rate", runs, tried)
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in shown.items())


def _tuned(record: Record) -> dict[str, float]:
    return {name: numeric(record, name) for name in record.setting if name not in _OF_THE_TASK}


def tried_table(records: Sequence[Record]) -> str:
    """How many settings of each method were tried, and which: from records and configuration."""
    rows = []
    for method, runs in by_method(records).items():
        settings = [_tuned(run) for run in runs]
        trained = [{k: v for k, v in each.items() if k != _SEARCHED} for each in settings]
        columns = {
            name: sorted({each[name] for each in settings if name in each})
            for name in dict.fromkeys(name for each in settings for name in each)
        }
        rates = _listed(columns.pop("learning_rate", []))
        others = (f"{name.replace('_', ' ')} {_listed(found)}" for name, found in columns.items())
        rows.append([method, str(len({str(each) for each in trained})), rates, "; ".join(others)])
    asked = records[0].origin.get("configuration", {}).get("learning_rates")
    drawn = f" Learning rates are from {asked[0]:g} to {asked[1]:g}." if asked else ""
    header = ["method", "trials", "learning rates", "beside them"]
    return (
        "What was tried: the trials of a method have one value in each stratum of every range, and "
        f"strata are equal on a logarithmic scale.{drawn} Above, (edge) marks a chosen learning "
        f"rate that is the least or the largest tried.\n\n{markdown(header, rows)}"
    )


def _listed(found: Sequence[float]) -> str:
    """Rising values: all of a few, the ends of many."""
    if len(found) > 4:
        return f"{found[0]:g} to {found[-1]:g}"
    return ", ".join(f"{value:g}" for value in found)


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
