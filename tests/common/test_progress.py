"""Progress bars: drawn on a terminal, nested, and silent where nobody looks."""

import io

from rich.console import Console

from common.progress import Bars, Silent


def test_bars_say_what_how_far_and_how_things_stand():
    sink = io.StringIO()
    bars = Bars(Console(file=sink, force_terminal=True, width=120))
    with bars.task("training", total=2) as bar:
        bar.advance(1, "loss 0.5")
        bar.advance()
    drawn = sink.getvalue()
    assert "training" in drawn
    assert "2/2" in drawn
    assert "loss 0.5" in drawn


def test_bars_nest_and_can_be_used_again():
    sink = io.StringIO()
    bars = Bars(Console(file=sink, force_terminal=True, width=120))
    with bars.task("outer", total=1), bars.task("inner", total=1) as inner:
        inner.advance()
    with bars.task("later", total=1) as later:
        later.advance()
    assert "later" in sink.getvalue()


def test_silence():
    with Silent().task("nothing", total=3) as bar:
        bar.advance(1, "note")
