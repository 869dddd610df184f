"""Several processes: one run between them, and the command lines that start it."""

import re
import shlex

import tyro

from benchmarks import cli
from benchmarks.docs import hooks
from benchmarks.harness import hosts
from tests.dcasgd_jax.test_devices import finish, free_address, start

PAGE = hooks.ROOT / "benchmarks" / "docs" / "pages" / "many_devices.md"


def test_two_processes_train_as_one_and_the_first_writes(tmp_path):
    address, out = free_address(), str(tmp_path / "run")
    both = [
        start("tests.benchmarks.harness.on_hosts", address, str(i), out, devices=2)
        for i in range(2)
    ]
    for process in both:
        assert "agree" in finish(process).splitlines()


def test_what_is_launched_on_the_page_is_understood():
    lines = re.findall(r"python -m benchmarks ([^'\"\n]*)", PAGE.read_text(encoding="utf-8"))
    found = [tyro.cli(cli.Arguments, args=shlex.split(line)) for line in lines]
    assert len(found) == 5
    for arguments in found:
        cli._checked(arguments)
        assert arguments.distributed
    assert [arguments.process_id for arguments in found] == [0, 1, None, None, None]


def test_a_process_by_itself_decides_by_itself():
    assert hosts.is_first()
    assert hosts.from_first(lambda: ["a"]) == ["a"]
    assert hosts.mesh().axis_names == ("data",)
