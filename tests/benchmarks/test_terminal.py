"""The command line on terminals of all kinds, and on none; and where it is interrupted."""

import contextlib
import fcntl
import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest

from benchmarks import accelerate, cli
from benchmarks.cli import main
from benchmarks.harness import registry

ROOT = Path(__file__).resolve().parents[2]
COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def terminal(monkeypatch):
    """Makes standard output a terminal of some columns; what it gives is called for the text."""

    def opened(columns, **environment):
        leader, follower = pty.openpty()
        size = struct.pack("HHHH", 24, columns, 0, 0)
        fcntl.ioctl(follower, termios.TIOCSWINSZ, size)
        shown = []
        reader = threading.Thread(target=read, args=(leader, shown))
        reader.start()
        stream = io.TextIOWrapper(io.FileIO(follower, "w"), encoding="utf-8", write_through=True)
        for name, value in {"COLUMNS": str(columns), "TERM": "xterm", **environment}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "stdout", stream)

        def text():
            stream.close()
            reader.join()
            os.close(leader)
            return b"".join(shown).decode().replace("\r", "")

        return text

    def read(leader, shown):
        try:
            while block := os.read(leader, 1 << 16):
                shown.append(block)
        except OSError:  # the other end is closed
            pass

    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return opened


def lines_of(terminal, arguments, columns, **environment):
    text = terminal(columns, **environment)
    with contextlib.suppress(SystemExit):  # after --help
        assert main(arguments) == 0
    return text()


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_text_is_set_to_the_width_of_the_terminal(terminal, arguments, columns):
    text = COLOUR.sub("", lines_of(terminal, arguments, columns))
    usage = "usage: python -m benchmarks [-h] [OPTIONS] NAME"  # the parser's, on one line
    assert max(len(line) for line in text.splitlines() if line != usage) <= columns
    together = " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())
    for name in registry.NAMES:
        assert name in together
        assert registry.claim(name) in together


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_there_is_no_colour_where_none_is_wanted(terminal, line, tmp_path, environment):
    line()
    assert "\x1b[" in lines_of(terminal, ["--help"], 80)
    # NO_COLOR leaves bold type and the cursor that a bar is drawn with.
    text = lines_of(terminal, ["--help"], 80, **environment)
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", text)
    arguments = ["line", "--seeds", "1", "--out", str(tmp_path)]
    text = lines_of(terminal, arguments, 80, **environment)
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", text)
    if "TERM" in environment:
        assert "\x1b" not in text
    assert "| fit" in text


def program(arguments, *, before="", **environment):
    """A process of the command line, in which some code runs before it."""
    code = f"import os, signal, sys\n{before}\nimport runpy\n"
    code += f"sys.argv = ['benchmarks', *{arguments!r}]\n"
    code += "runpy.run_module('benchmarks', run_name='__main__', alter_sys=True)"
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        encoding=environment.get("PYTHONIOENCODING", "utf-8"), env=os.environ | environment,
    )  # fmt: skip


def test_a_reader_that_goes_away_ends_it_without_a_word():
    process = program(["--help"], before="sys.stdout.reconfigure(line_buffering=True)")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("usage:")
    process.stdout.close()
    _, complaints = process.communicate(timeout=60)
    assert complaints == ""
    assert process.returncode in (0, 128 + signal.SIGPIPE)


@pytest.mark.parametrize("arguments", [[], ["line"], ["accelerator", "--dry-run"]])
def test_it_is_no_bad_input_that_a_reader_goes_away(arguments, line, tmp_path, monkeypatch):
    def gone(console, text):
        raise BrokenPipeError

    line()
    for module in (cli, accelerate):
        monkeypatch.setattr(module, "show", gone)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BrokenPipeError):
        main(arguments)


def test_errors_are_set_to_the_width_of_the_terminal(terminal, monkeypatch, capsys):
    text = terminal(40)
    monkeypatch.setattr(sys, "stderr", sys.stdout)
    assert main(["gsgd_mpl"]) == 2
    lines = text().splitlines()
    assert max(map(len, lines)) <= 40
    monkeypatch.undo()
    assert main(["gsgd_mpl"]) == 2
    (whole,) = capsys.readouterr().err.splitlines()
    assert whole == " ".join(line.strip() for line in lines)
    assert whole.endswith("did you mean 'gsgd_mlp'? `python -m benchmarks` lists all.")


def test_signs_that_an_encoding_lacks_are_replaced(tmp_path):
    """The whole of a run, in a locale that has neither the rule's line nor every experiment's λ."""
    claim = "from benchmarks.harness import registry\nregistry.claim = lambda name: '\u03bb \xb1'"
    process = program([], before=claim, PYTHONIOENCODING="latin-1")
    printed, complaints = process.communicate(timeout=60)
    assert (process.returncode, complaints) == (0, "")
    assert "gsgd_mlp                ? \xb1\n" in printed


INTERRUPTED_WHILE_IMPORTING = """
class Interrupts:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.{signal})

sys.meta_path.insert(0, Interrupts)
"""


IN_THE_BACKGROUND = "signal.signal(signal.SIGINT, signal.SIG_IGN)"
"""How a shell starts what a script puts there."""


@pytest.mark.parametrize(
    ("module", "name", "first"),
    [
        ("jax", "SIGINT", ""),
        ("benchmarks.harness.runner", "SIGTERM", ""),
        ("jax", "SIGINT", IN_THE_BACKGROUND),
    ],
)
def test_ctrl_c_before_anything_began_is_one_line(module, name, first):
    before = first + INTERRUPTED_WHILE_IMPORTING.format(module=module, signal=name)
    process = program(["gsgd_mlp"], before=before)
    printed, complaints = process.communicate(timeout=60)
    assert (printed, complaints) == ("", "python -m benchmarks: interrupted\n")
    assert process.returncode == 130
