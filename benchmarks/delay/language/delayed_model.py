"""Stale gradients on a language model: what is lost with AdamW and Muon, and which rule repairs it.

A byte-level transformer reads Python's standard library, split into training, validation and test
text by file. Its gradients are late by the same number of steps in all parts, or as in a pipeline:
a stage is half a block, the first is the latest, the last on time. Each gradient is taken at the
weights that the stages had then (`dcasgd_jax.simulate` with a schedule for each part).

Rows, for AdamW and Muon: nothing, at the step that is best without delay and at a smaller one of
its own; DC-ASGD-c, DC-ASGD-a; the rotated and the low-rank compensator; prediction along the
optimiser's step; error feedback; and ours, a shorter momentum, alone and with prediction. Steps of
all rows come from one grid, lambdas from theirs; the validation loss of the first seed chooses, and
goes on beyond a grid where the best is at its edge. All get equally many steps, with warm-up and a
linear fall to zero.

Public findings that are judged (a mixture of experts with 290M parameters on TPU, June 2026, two
seeds, one step for all arms as far as read; github.com/marin-community/marin, issue 6431): the
published diagonal recovers at most 3% of Adam's loss at a staleness of 8; Muon is 2.6 to 5.3 times
as robust as Adam; prediction along Muon's step recovers 46%; the true profile of a pipeline is 3.3
times milder than its longest delay for all, which is judged for both optimisers. Reproduced is
what has its whole 95% interval in the published range (of a single figure: a fifth either way), and
refuted what has it outside. Aim: 80% of Muon's gap at a staleness of 8, with one more copy of the
weights. Which rule is told as the best is chosen by validation loss.

Refuted, that a rule helps: if a smaller step without it does as well.

Cost: smoke 2 minutes on one core, cpu 3, day two hours and a quarter (0.8M parameters). Estimated,
not run: full 8 minutes on one H100 (10M parameters, 3 seeds). It may be stopped and resumed.
Command: python -m benchmarks delayed_language_model --preset day --seeds 3
"""

import functools
from collections.abc import Iterator

from benchmarks.delay.language import report
from benchmarks.delay.language.network import Size
from benchmarks.delay.language.runs import Runner, load
from benchmarks.delay.language.settings import PROFILE, Settings
from benchmarks.delay.language.stages import stages_of
from benchmarks.delay.language.text import standard_library
from benchmarks.harness.registry import Context
from common.results.records import Record

PRESETS = {
    "smoke": Settings(),
    "cpu": Settings(
        size=Size(64, 4, 2, 64), text_limit=4_000_000, delays=(0, 8), main_delays=(8,), stages=5,
        batch_size=4, steps=60, learning_rates=(0.003, 0.009), constant_lambdas=(250.0,),
        adaptive_lambdas=(200.0,), further=1, points=6, watched=8, held_out=32,
    ),
    "day": Settings(
        size=Size(128, 4, 4, 128), text_limit=4_000_000, delays=(0, 4, 8), main_delays=(8,),
        stages=9, batch_size=8, steps=200, learning_rates=(0.001, 0.003, 0.009, 0.027),
        constant_lambdas=(0.04, 250.0), adaptive_lambdas=(2.0, 200.0), further=3, points=20,
        watched=16, held_out=128,
    ),
    "full": Settings(
        size=Size(384, 6, 6, 256, bfloat16=True), text_limit=4_000_000, delays=(0, 2, 4, 8, 16),
        main_delays=(2, 4, 8, 16, PROFILE), stages=9, batch_size=32, steps=300, points=30,
        learning_rates=(0.0005, 0.001, 0.002, 0.004, 0.008), constant_lambdas=(0.04, 8000.0),
        adaptive_lambdas=(2.0, 200.0), further=3, watched=32, held_out=256,
    ),
}  # fmt: skip


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each optimiser, rule, delay, step, lambda and seed."""
    text = standard_library(settings.text_limit)
    runner = Runner(settings, load(text, settings))
    stages = stages_of(settings)
    with context.progress.task("delayed language model", total=len(stages)) as bar:
        for name, make in stages.items():
            yield from context.stages.of(
                name, functools.partial(make, runner, context.seeds, text.digest)
            )
            bar.advance(note=name)


tables, plots, CAPTIONS = report.tables, report.plots, report.CAPTIONS
