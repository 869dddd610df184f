"""The code that a result came from: of equal names it is the same, and of other code it is not."""

import re
import shutil
import subprocess

import pytest

from common.results import origin
from common.results.origin import git_commit, shortened

COMMIT, CHANGED = r"[0-9a-f]{40}", r"[0-9a-f]{40}\+changes-[0-9a-f]{8}"


def name():
    """What the code is called now; a process asks once."""
    return git_commit.__wrapped__()


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """The folder of a package in no checkout, with one module in it."""
    monkeypatch.setattr(origin, "_ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    folder = tmp_path / "common"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "module.py").write_text("one = 1\n")
    return folder


def git(folder, *arguments):
    mine = ["-c", "user.name=me", "-c", "user.email=me@here", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *mine, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def checkout(sources):
    """The same folder, committed, with a page beside it."""
    (sources.parent / "README.md").write_text("A page.\n")
    git(sources.parent, "init", "--quiet")
    git(sources.parent, "add", "--all")
    git(sources.parent, "commit", "--quiet", "--message", "first")
    return sources


def test_a_commit_names_its_code_whatever_pages_say(checkout):
    clean = name()
    assert re.fullmatch(COMMIT, clean)
    (checkout.parent / "README.md").write_text("Another.\n")
    (checkout / "records.jsonl").write_text("{}\n")
    assert name() == clean


def test_changes_that_differ_have_names_that_differ(checkout):
    module, clean = checkout / "deep" / "module.py", name()
    found = []
    for text in ("two = 2\n", "two = 3\n"):
        module.write_text(text)
        found.append(name())
    module.write_text("one = 1\n")
    assert name() == clean
    (checkout / "new.py").write_text("")
    found.append(name())
    (checkout / "new.py").rename(checkout / "deep" / "new.py")
    found.append(name())
    git(checkout.parent, "add", "--all")
    assert name() == found[-1]  # whether it is to be committed is no matter
    module.unlink()
    found.append(name())
    assert all(re.fullmatch(CHANGED, one) and one.startswith(clean) for one in found)
    assert len(set(found)) == len(found) == 5
    module.write_text("two = 2\n")
    (checkout / "deep" / "new.py").unlink()
    assert name() == found[0]


def test_without_git_the_sources_tell_codes_apart(sources, monkeypatch):
    first = name()
    assert re.fullmatch("unknown-[0-9a-f]{8}", first)
    assert name() == first
    (sources / "deep" / "module.py").write_text("one = 2\n")
    assert name() not in (first, "unknown")
    monkeypatch.setenv("PATH", "")  # no git at all
    assert re.fullmatch("unknown-[0-9a-f]{8}", name())


def test_a_copy_in_another_projects_checkout_has_not_that_ones_commit(checkout):
    (checkout.parent / ".gitignore").write_text("copies/\n")
    git(checkout.parent, "add", "--all")
    git(checkout.parent, "commit", "--quiet", "--message", "second")
    copy = checkout.parent / "copies" / "this"
    shutil.copytree(checkout, copy / "common")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(origin, "_ROOT", copy)
        assert name().startswith("unknown-")


@pytest.mark.parametrize("rest", ["", "+changes", "+changes-1a2b3c4d"])
def test_commits_are_shortened_and_what_is_none_is_not(rest):
    assert shortened("0123456789ab" + "c" * 28 + rest) == "0123456789ab" + rest
    assert shortened(f"unknown{rest}") == f"unknown{rest}"
