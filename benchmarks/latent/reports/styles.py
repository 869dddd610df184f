"""Tables and figures of methods tested on each domain in turn, from their records alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.harness.reports import by_method, by_setting, marked, values, where
from benchmarks.latent.reports.domains import by_rule, rules_figure, tried_table
from common.results.records import Record
from common.results.selection import best_setting
from common.results.tables import group, markdown, metric, percent, summarise

Chosen = Mapping[str, Mapping[str, Sequence[Record]]]
"""Of every method and test domain, the records of the setting that was chosen, one a seed."""

CAPTIONS = {
    "domains.png": "Mean test accuracy over the domains, each left out in turn; dots are seeds, "
    "the mark their mean with one standard deviation. Compare each with ERM, which knows of no "
    "domains."
}


def chosen(records: Sequence[Record]) -> dict[str, Chosen]:
    """What each rule chose, for every test domain by itself."""

    def by_domain(known: Sequence[Record], criterion: str) -> Chosen:
        return {
            method: {
                domain: best_setting(tried, criterion=criterion)
                for domain, tried in by_setting(runs, "test_domain").items()
            }
            for method, runs in by_method(known).items()
        }

    return by_rule(records, by_domain)


def means(domains: Mapping[str, Sequence[Record]]) -> dict[int, float]:
    """Test accuracy over the test domains, by seed; NaN where one diverged."""
    seeds = group((r for runs in domains.values() for r in runs), lambda r: r.seed)
    return {seed: float(np.mean(values(runs, "test_accuracy"))) for seed, runs in seeds.items()}


def tables(records: Sequence[Record]) -> str:
    """Test accuracy on every domain, one table a rule; and what was tried."""
    parts, names = [], [str(name) for name in by_setting(records, "test_domain")]
    for rule, methods in chosen(records).items():
        rows = []
        for method, domains in methods.items():
            cells = [percent(metric(runs, "test_accuracy")) for runs in domains.values()]
            mean = percent(summarise(means(domains).values()))
            tried = where(records, method)
            rates = ", ".join(marked("learning_rate", runs, tried) for runs in domains.values())
            rows.append([method, *cells, mean, rates])
        header = ["test % on the domain left out", *names, "mean", "learning rate of each"]
        parts.append(f"Settings chosen by {rule}:\n\n{markdown(header, rows)}")
    return "\n\n".join([*parts, tried_table(records)])


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """One panel a rule: test accuracy of every method, the mean of the test domains."""
    scores = {
        rule: {method: list(means(domains).values()) for method, domains in methods.items()}
        for rule, methods in chosen(records).items()
    }
    return [rules_figure(scores, out / "domains.png", label="mean test accuracy, %")]
