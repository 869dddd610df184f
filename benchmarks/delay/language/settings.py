"""What the experiment depends on."""

import dataclasses
from typing import NamedTuple

from benchmarks.delay.language import rules
from benchmarks.delay.language.network import Size

PROFILE = "profile"
"""The delay that differs by stage; every other delay is a number of steps, for all parts."""
Delay = int | str


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the experiment depends on."""

    size: Size = dataclasses.field(default_factory=Size)
    text_limit: int = 400_000
    """Bytes of the standard library."""
    optimisers: tuple[str, ...] = rules.OPTIMISERS
    rows: tuple[str, ...] = rules.RULES
    delays: tuple[int, ...] = (0, 2)
    """Uniform ones, 0 first; every rule is run at `main_delays`."""
    main_delays: tuple[int | str, ...] = (2,)
    stages: int = 3
    """Of the pipeline; its first stage's delay is one less."""
    extra_rules: tuple[str, ...] = (rules.PREDICTION,)
    """Run with the profile too, where that is no main delay."""
    batch_size: int = 4
    steps: int = 12
    warm_up: float = 0.1
    """Share of the steps in which the step grows; then it falls linearly to zero."""
    learning_rates: tuple[float, ...] = (0.002, 0.008)
    constant_lambdas: tuple[float, ...] = (0.04,)
    adaptive_lambdas: tuple[float, ...] = (2.0,)
    """0.04 and 2 are the published ones."""
    further: int = 0
    """How many times, at most, the search goes on to what is next to the best and untried."""
    short_momentum: tuple[float, float] = (0.5, 0.5)
    """The first decay of Muon and of AdamW in the rows of the shorter one."""
    points: int = 4
    """Of the curves."""
    watched: int = 8
    """Windows of validation text at each point of a curve."""
    held_out: int = 16
    """Windows of validation text at the end, and of test text."""

    def __post_init__(self):
        """Refuses delays and lengths that do not go together."""
        if self.delays[:1] != (0,) or not set(self.main_delays) <= {*self.delays, PROFILE}:
            raise ValueError(
                f"delays must begin with 0 and hold the main ones, got {self.delays} and "
                f"{self.main_delays}."
            )
        if self.steps % self.points:
            raise ValueError(f"steps must be a multiple of points, got {self.steps}, {self.points}")
        if len(self.learning_rates) < 2:
            raise ValueError(
                f"learning_rates must be two or more, to choose from, got {self.learning_rates}."
            )


def lambdas(rule: str, settings: Settings) -> tuple[float, ...]:
    """The strengths that a rule is tried with; empty where it has none."""
    tried = {
        rules.CONSTANT: settings.constant_lambdas, rules.ADAPTIVE: settings.adaptive_lambdas,
    }  # fmt: skip
    return tried.get(rule, ())


class Case(NamedTuple):
    """One optimiser with one rule at one delay."""

    optimiser: str
    rule: str
    delay: Delay
