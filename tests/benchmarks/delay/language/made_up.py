"""Records of runs that nobody made, for what is said of them."""

from benchmarks.delay.language import rules
from common.results.records import Record

SEEDS = (0, 1, 2)
BASE = {0: 2.0, 1: 2.1, 2: 1.9}


def record(optimiser, rule, delay, gap, seed, *, step=0.01):
    loss = BASE[seed] + gap
    return Record(
        method=rule,
        setting={
            "optimiser": optimiser, "delay": delay, "learning_rate": step, "text": "0123",
        },
        seed=seed,
        metrics={
            "test_loss": loss, "validation_loss": loss,
            "validation_log_likelihood": -loss,
            "largest_staleness": 4.0,
        },
        wall_time=0.0,
    )  # fmt: skip


def board(*, gap=None, spread=0.0, same=None, profile=0.1, **shares):
    """Records in which the tuned gaps are `gap`, by optimiser, and rules close their `shares`."""
    gap = gap or {rules.ADAMW: 1.2, rules.MUON: 0.3}
    found = []
    for optimiser, whole in gap.items():
        at_one = (same or gap)[optimiser]
        for seed in SEEDS:
            noise = spread * (seed - 1)
            found.append(record(optimiser, rules.NOTHING, "0", 0.0, seed))
            found.append(record(optimiser, rules.NOTHING, "8", at_one, seed))
            found.append(record(optimiser, rules.NOTHING, "8", whole, seed, step=0.005))
            found.append(record(optimiser, rules.NOTHING, "4", 0.3, seed))
            found.append(record(optimiser, rules.NOTHING, "profile", profile, seed))
            for rule, share in shares.items():
                left = whole * (1 - share) + noise
                found.append(record(optimiser, rule, "8", left, seed))
    return found
