"""Records of runs that nobody made, for what is said of them."""

from benchmarks.delay.language import rules
from common.results.records import Record

SEEDS = (0, 1, 2)
BASE = {0: 2.0, 1: 2.1, 2: 1.9}


def record(optimiser, rule, delay, gap, seed, *, step=0.01, validated=None):
    """One run; `validated` is its gap on validation text, by default that on test text."""
    loss = BASE[seed] + gap
    validation = loss if validated is None else BASE[seed] + validated
    return Record(
        method=rule,
        setting={
            "optimiser": optimiser, "delay": delay, "learning_rate": step, "text": "0123",
        },
        seed=seed,
        metrics={
            "test_loss": loss, "validation_loss": validation,
            "validation_log_likelihood": -validation,
            "largest_staleness": 4.0,
        },
        curve={"tokens": [10.0, 20.0], "validation_loss": [validation + 1.0, validation]},
        wall_time=0.0,
    )  # fmt: skip


def board(
    *,
    gap=None,
    spread=0.0,
    shaken=0.0,
    same=None,
    profile: float | dict[str, float] = 0.1,
    validated=None,
    **shares,
):
    """Records in which the tuned gaps are `gap`, by optimiser, and rules close their `shares`.

    Seeds differ by `spread` in the losses of rules, and by `shaken` in those of none. `profile` is
    the gap with the profile, of both optimisers or by optimiser; `validated` are shares that rules
    close on validation text where they are not those of test text.
    """
    gap = gap or {rules.ADAMW: 1.2, rules.MUON: 0.3}
    on_validation = shares | (validated or {})
    found = []
    for optimiser, whole in gap.items():
        at_one = (same or gap)[optimiser]
        staged = profile[optimiser] if isinstance(profile, dict) else profile
        for seed in SEEDS:
            noise, shake = spread * (seed - 1), shaken * (seed - 1)
            found.append(record(optimiser, rules.NOTHING, "0", 0.0, seed))
            found.append(record(optimiser, rules.NOTHING, "8", at_one, seed))
            found.append(record(optimiser, rules.NOTHING, "8", whole + shake, seed, step=0.005))
            found.append(record(optimiser, rules.NOTHING, "4", 0.3, seed))
            found.append(record(optimiser, rules.NOTHING, "profile", staged + shake, seed))
            for rule, share in shares.items():
                left, seen = (whole * (1 - s) + noise for s in (share, on_validation[rule]))
                found.append(record(optimiser, rule, "8", left, seed, validated=seen))
    return found
