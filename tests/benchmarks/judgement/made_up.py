"""Records of runs that nobody made, for what verdicts say of them."""

import dataclasses

from common.results.records import Record

FINE, COARSE = 0.0001, 0.05
"""Spreads over seeds: one that hides nothing, one that hides a point."""


def runs(method, setting, *, spread=FINE, **metrics):
    """Three seeds; every metric but 0 moves up from seed to seed, in steps of its method's own."""
    step = spread * len(method) / 4
    return [
        Record(
            method=method, setting=setting, seed=seed, wall_time=0.0,
            metrics={name: value + step * (seed - 1) * (value != 0)
                     for name, value in metrics.items()},
        )
        for seed in range(3)
    ]  # fmt: skip


def images(gsgd, sgd, *, rates=(0.1,), spread=FINE):
    return [
        record
        for method, accuracy in (("G-SGD", gsgd), ("SGD", sgd))
        for rate in rates
        for record in runs(
            method, {"network": "plain-34", "learning_rate": rate}, spread=spread,
            validation_accuracy=accuracy, test_accuracy=accuracy,
        )
    ]  # fmt: skip


def delayed(values, *, rates, spread=FINE, workers=8):
    """Of each method, its accuracy at every rate."""
    return [
        record
        for method, accuracies in values.items()
        for rate, value in zip(rates, accuracies, strict=True)
        for record in runs(
            method, {"workers": workers, "learning_rate": rate}, spread=spread,
            validation_accuracy=value, test_accuracy=value,
        )
    ]  # fmt: skip


def of_domains(lacim, *, learnt=0.85, spread=FINE):
    return [
        record
        for method, value in (("ERM", 0.3), ("IRM", 0.8), ("LaCIM", lacim))
        for record in runs(
            method, {"learning_rate": 0.1}, spread=spread, validation_accuracy=learnt,
            oracle_accuracy=value, test_accuracy=value,
        )
    ]  # fmt: skip


def timed(method, seconds, **metrics):
    return Record(method=method, setting={"network": "MLP 3x512"}, seed=0, metrics=metrics,
                  wall_time=0.0, curve={"seconds": seconds})  # fmt: skip


def scaled_apart(apart):
    """Two scalings of one start end `apart` in path space and 0.7 on weights."""
    return [
        record
        for method, distance in (("G-SGD", apart), ("SGD", 0.7))
        for record in runs(
            method, {"dtype": "float32", "spread": 1.0}, spread=0.0, distance=distance,
            changed_answers=0.1,
        )
    ]  # fmt: skip


def rungs(hessian, diagonal, *, spread=FINE, activation="tanh"):
    """Shares of the staleness error that two rungs leave."""
    left = {"Hessian": hessian, "diag(lambda G), adaptive": diagonal}
    return [
        record
        for rung, value in left.items()
        for record in runs(
            rung, {"activation": activation}, spread=spread, error_left_scaled=value
        )
    ]  # fmt: skip


def found_from(ours, pooled, fewer, *, v=0.95, spread=FINE):
    """MCCs from five domains, which suffice, and from three, which do not."""
    found = [
        record
        for m, method, value in (
            (5, "LaCIM", ours), (5, "Pool-LaCIM", pooled), (3, "LaCIM", fewer),
            (3, "Pool-LaCIM", pooled),
        )
        for record in runs(
            method, {"confounder": "continuous", "num_domains": m},
            spread=spread * (1 + m), s_within=value, v_within=v,
        )
    ]  # fmt: skip
    for m in (3, 5):
        found += runs(
            "inverse mixing, turned", {"confounder": "continuous", "num_domains": m},
            spread=spread, s_within=0.89, v_within=0.89,
        )  # fmt: skip
        found += [
            Record(method="inverse mixing", setting={"confounder": "continuous", "num_domains": m},
                   seed=0, metrics={"needed_s": 5.0}, wall_time=0.0)
        ]  # fmt: skip
    return found


def flipped(known):
    """The flip test, where settings chosen by the graph give `known`."""
    return [
        record
        for method, value in (
            ("erm", 0.63), ("likelihood", 0.78), ("lacim", known), ("pool-lacim", 0.78),
            ("lacim, chosen on validation", 0.63),
        )
        for record in runs(method, {"tau": 0.5}, accuracy=value)
    ]  # fmt: skip


def searched_colours(lacim):
    """Coloured digits, a quarter of the labels flipped; what LaCIM has before its search is low."""
    noise = {"label_noise": 0.25, "learning_rate": 0.1}
    found = runs("ERM", noise, validation_accuracy=0.84, test_accuracy=0.16)
    found += runs("LaCIM", noise, validation_accuracy=0.84)
    searched = runs(
        "LaCIM", {**noise, "search_weight": 0.1}, validation_accuracy=0.84, test_accuracy=lacim
    )
    curve = {"step": [0, 10], "test_accuracy": [0.05, lacim]}
    return found + [dataclasses.replace(record, curve=curve) for record in searched]


def of_fonts(few, most, *, erm=(0.2, 0.4), mcc=(0.3, 0.5), pooled=0.3, learnt=0.9, spread=FINE):
    """Accuracy in new fonts from two training fonts and from 16, which suffice; MCCs of v."""
    found = []
    for i, m in enumerate((2, 16)):
        tested = (("ERM", erm[i], {}), ("LaCIM", (few, most)[i], {"mcc": mcc[i]}),
                  ("Pool-LaCIM", 0.3, {"mcc": pooled}))  # fmt: skip
        for method, value, more in tested:
            found += runs(
                method, {"num_domains": m}, spread=spread, test_accuracy=value, **more,
                **dict.fromkeys(("choice_accuracy", "validation_accuracy"), learnt),
            )  # fmt: skip
        found += runs("principal components", {"num_domains": m}, spread=0.0, mcc=0.2, needed=9.0)
    return found
