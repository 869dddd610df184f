"""Tables and plots of methods that learn from several domains, from their records alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from common.results.plots import figure, plot_bars
from common.results.records import Record
from common.results.selection import best_setting
from common.results.tables import group, markdown, metric, number, percent

RULES = {
    "training domains": "validation_accuracy",
    "left-out domain": "left_out_accuracy",
    "oracle": "oracle_accuracy",
}
"""What settings are chosen by, and the metric that each rule looks at."""


def chosen(records: Sequence[Record]) -> dict[str, dict[str, list[Record]]]:
    """For each rule and method, the records of the setting chosen, one a seed.

    Args:
        records: of one experiment.
    """
    found = {}
    for rule, criterion in RULES.items():
        known = [record for record in records if criterion in record.metrics]
        if known:
            found[rule] = {
                method: best_setting(tried, criterion=criterion)
                for method, tried in group(known, lambda record: record.method).items()
            }
    return found


def tables(records: Sequence[Record]) -> str:
    """Test accuracy as chosen by each rule; then what the first rule's choice is worth beside it.

    Args:
        records: of one experiment.

    Returns:
        Markdown.
    """
    by_rule = chosen(records)
    methods = list(dict.fromkeys(record.method for record in records))
    rows = [
        [method, *(percent(metric(by_rule[rule][method], "test_accuracy")) for rule in by_rule)]
        for method in methods
    ]
    accuracy = markdown(["test %, chosen by", *by_rule], rows)
    first = by_rule["training domains"]
    names = {
        "test_calibration_error": "calibration error",
        "confidence_auroc": "AUROC, doubt",
        "disagreement_auroc": "disagreement",
        "bound_auroc": "bound",
    }
    rows = []
    for method in methods:
        row = [method, _setting(first[method][0])]
        row.append(percent(metric(first[method], "validation_accuracy")))
        for name in names:
            known = all(name in record.metrics for record in first[method])
            row.append(number(metric(first[method], name)) if known else "-")
        rows.append(row)
    header = ["chosen on training domains", "setting", "validation %", *names.values()]
    return (
        f"{accuracy}\n\nCalibration on the test domain, and how well the test domain is told from "
        "the training ones (AUROC, 0.5 says nothing) by doubt, 1 - max p(y|x), and by what a "
        f"latent search leaves:\n\n{markdown(header, rows)}"
    )


def _setting(record: Record) -> str:
    shown = {k: v for k, v in record.setting.items() if k != "label_noise"}
    return ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in shown.items())


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """One panel a rule: test accuracy of every method.

    Args:
        records: of one experiment.
        out: the folder.

    Returns:
        The files written.
    """
    values = {
        rule: {m: [r.metrics["test_accuracy"] for r in runs] for m, runs in methods.items()}
        for rule, methods in chosen(records).items()
    }
    return [plot_rules(values, out / "selection.png", label="test accuracy, %")]


def plot_rules(
    values: Mapping[str, Mapping[str, Sequence[float]]], path: Path, *, label: str
) -> Path:
    """A panel for each rule of selection, a bar for each method.

    Args:
        values: of each rule and method one a seed, 0 to 1.
        path: the PNG file to write.
        label: of the abscissa.

    Returns:
        `path`.
    """
    with figure(path, columns=len(values), panel=(3.6, 3.4)) as panels:
        for axes, (rule, methods) in zip(panels[0], values.items(), strict=True):
            plot_bars(axes, list(methods), list(methods.values()), scale=100)
            axes.set(title=f"chosen by {rule}", xlabel=label, xlim=(0, 100))
    return path
