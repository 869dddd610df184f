"""Tables and plots of methods tested on each domain in turn, from their records alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.latent.reports.domains import RULES, plot_rules
from common.results.records import Record
from common.results.selection import best_setting
from common.results.tables import group, markdown, metric, percent, summarise

Chosen = Mapping[str, Mapping[str, Sequence[Record]]]
"""Of every method and test domain, the records of the setting that was chosen, one a seed."""

MEAN = "mean"


def chosen(records: Sequence[Record]) -> dict[str, Chosen]:
    """What each rule chose, for every test domain by itself.

    Args:
        records: of one experiment.
    """
    found: dict[str, Chosen] = {}
    for rule, criterion in RULES.items():
        known = [record for record in records if criterion in record.metrics]
        if known:
            found[rule] = {
                method: {
                    domain: best_setting(tried, criterion=criterion)
                    for domain, tried in group(own, _domain).items()
                }
                for method, own in group(known, lambda record: record.method).items()
            }
    return found


def _domain(record: Record) -> str:
    return str(record.setting["test_domain"])


def _means(domains: Mapping[str, Sequence[Record]]) -> list[float]:
    """Test accuracy over the test domains, a seed each; NaN where one diverged."""
    seeds = group((r for runs in domains.values() for r in runs), lambda r: r.seed)
    return [float(np.mean([r.metrics["test_accuracy"] for r in own])) for own in seeds.values()]


def tables(records: Sequence[Record]) -> str:
    """Test accuracy on every domain, one table a rule.

    Args:
        records: of one experiment.

    Returns:
        Markdown.
    """
    parts = []
    for rule, methods in chosen(records).items():
        rows = []
        for method, domains in methods.items():
            cells = [percent(metric(runs, "test_accuracy")) for runs in domains.values()]
            rows.append([method, *cells, percent(summarise(_means(domains)))])
        names = list(dict.fromkeys(map(_domain, records)))
        header = ["test % on the domain left out", *names, MEAN]
        parts.append(f"Settings chosen by {rule}:\n\n{markdown(header, rows)}")
    return "\n\n".join(parts)


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """One panel a rule: test accuracy of every method, the mean of the test domains.

    Args:
        records: of one experiment.
        out: the folder.

    Returns:
        The files written.
    """
    values = {
        rule: {method: _means(domains) for method, domains in methods.items()}
        for rule, methods in chosen(records).items()
    }
    return [plot_rules(values, out / "domains.png", label="mean test accuracy, %")]
