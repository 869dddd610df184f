"""Checkpoints: what is damaged, cut short or not a number is never gone on with."""

import json
import os
import pickle
import re
import resource
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore

from common.training import checkpoints
from common.training.checkpoints import (
    Checkpoints,
    DamagedCheckpointError,
    NotANumberError,
    UnwrittenCheckpointError,
)

STATE = {"w": jnp.arange(6.0).reshape(2, 3), "step": jnp.zeros([], jnp.int32)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with checkpoints of steps 1 and 2."""
    folder = tmp_path_factory.mktemp("checkpoints") / "run"
    with Checkpoints(folder) as opened:
        for step in (1, 2):
            opened.save(step, STATE | {"step": jnp.asarray(step)}, {"seen": step})
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of it."""
    return shutil.copytree(saved, tmp_path / "run")


def restore(folder, template=STATE, **options):
    with Checkpoints(folder) as opened:
        return opened.restore(template, **options)


def test_what_is_saved_comes_back(folder):
    found = restore(folder)
    assert (found.step, found.notes) == (2, {"seen": 2})
    jax.tree.map(np.testing.assert_array_equal, found.state, STATE | {"step": jnp.asarray(2)})
    assert restore(folder.parent / "empty") is None


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def alter(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("notes/metadata", cut, "notes/metadata is not what was written"),
        ("state/manifest.ocdbt", alter, "manifest.ocdbt is not what was written"),
        ("state/_METADATA", lambda path: path.unlink(), "is missing"),
        ("seal.json", lambda path: path.unlink(), "its writing was cut short"),
        ("seal.json", cut, "seal.json is not what was written"),
    ],
)
def test_a_damaged_one_is_set_aside_and_the_one_before_it_taken(folder, name, damage, message):
    damage(folder / "2" / name)
    with pytest.warns(UserWarning, match=rf"/2 is damaged .*{message}.* set aside .* from .*/1"):
        assert restore(folder).step == 1
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2.damaged"]
    with Checkpoints(folder) as opened:
        opened.save(2, STATE, {"seen": "anew"})
        assert opened.restore(STATE).notes == {"seen": "anew"}


def test_where_all_are_damaged_each_is_named(folder):
    for step in (1, 2):
        (folder / str(step) / "state" / "_METADATA").unlink()
    with pytest.raises(DamagedCheckpointError, match=r"/2 \(state/_METADATA is missing\); .*/1 \("):
        restore(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]


def test_a_run_that_was_stopped_while_it_wrote_its_first_one_begins_anew(folder):
    shutil.rmtree(folder / "1")
    (folder / "2" / "seal.json").unlink()
    with pytest.warns(UserWarning, match=r"/2 is damaged .*cut short.* training begins anew"):
        assert restore(folder) is None
    assert sorted(path.name for path in folder.iterdir()) == ["2.damaged"]
    with Checkpoints(folder) as opened:
        opened.save(1, STATE, {"seen": "anew"})
        assert opened.restore(STATE).notes == {"seen": "anew"}


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("unpickled",)


def test_a_pickle_in_place_of_a_file_is_not_loaded(folder):
    for path in (folder / "2").rglob("*"):
        if path.is_file():
            path.write_bytes(pickle.dumps(Bomb()))
    with pytest.warns(UserWarning, match="seal.json is not what was written"):
        assert restore(folder).step == 1


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ({"w": STATE["w"]}, r"has int32\[\] at \['step'\], and this state no such leaf"),
        (STATE | {"v": STATE["w"]}, r"has no such leaf at \['v'\], and this state float32"),
        (STATE | {"w": jnp.zeros(6)}, r"float32\[2, 3\] at \['w'\], and this state float32\[6\]"),
        (STATE | {"w": jnp.zeros((2, 3), jnp.bfloat16)}, r"and this state bfloat16\[2, 3\]"),
    ],
)
def test_a_state_of_another_form_is_refused(folder, template, message):
    with pytest.raises(ValueError, match=message):
        restore(folder, template)
    assert restore(folder).step == 2


def test_nan_is_neither_saved_nor_loaded_unless_asked_for(folder):
    bad = STATE | {"w": jnp.full((2, 3), jnp.nan)}
    with Checkpoints(folder) as opened:
        with pytest.raises(NotANumberError, match=r"no NaN, but \['w'\] of step 3 does"):
            opened.save(3, bad, {})
        assert opened.restore(STATE).step == 2
        opened.save(3, bad, {}, allow_nan=True)
        with pytest.raises(NotANumberError, match=r"\['w'\] of the checkpoint .*/3 does; remove"):
            opened.restore(STATE)
        assert opened.restore(STATE, allow_nan=True).step == 3
    shutil.rmtree(folder / "3")
    assert restore(folder).step == 2


def test_infinity_is_let_through(folder):
    with Checkpoints(folder) as opened:
        opened.save(3, STATE | {"w": jnp.full((2, 3), jnp.inf)}, {})
        assert opened.restore(STATE).step == 3


def test_steps_ascend(folder):
    with (
        Checkpoints(folder) as opened,
        pytest.raises(ValueError, match="has one of step 2, got 2; give"),
    ):
        opened.save(2, STATE, {})


def test_a_full_disk_leaves_what_was_saved(folder, capfd):
    large = STATE | {"w": np.random.default_rng(0).normal(size=20_000).astype(np.float32)}
    with Checkpoints(folder) as opened:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        try:
            with pytest.raises(UnwrittenCheckpointError, match=r"/3 could not .* by step: 1, 2\."):
                opened.save(3, large, {})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]
        assert opened.restore(STATE).step == 2
        opened.save(3, large, {})
    assert restore(folder, large).step == 3
    assert "Traceback" not in capfd.readouterr().err


def test_ctrl_c_before_the_seal_leaves_the_one_before(folder, monkeypatch):
    def interrupted(path):
        raise KeyboardInterrupt

    with Checkpoints(folder) as opened, monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_seal", interrupted)
        with pytest.raises(KeyboardInterrupt):
            opened.save(3, STATE, {})
    assert restore(folder).step == 2


def test_ctrl_c_before_the_name_leaves_no_trace(folder, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    with Checkpoints(folder) as opened, monkeypatch.context() as patch:
        patch.setattr(os, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            opened.save(3, STATE, {})
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]
    assert restore(folder).step == 2


def peak_memory():
    """From now on: a function that gives the most bytes beyond those used now."""
    status = Path("/proc/self/status")
    if not status.exists():  # another system
        return lambda: 0

    def kilobytes(name):
        return int(re.search(rf"^{name}:\s+(\d+) kB", status.read_text(), re.MULTILINE)[1])

    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    now = kilobytes("VmRSS")
    return lambda: 1024 * (kilobytes("VmHWM") - now)


def stored(folder):
    """The arrays of a checkpoint as tensorstore has them, by key."""
    base = {"driver": "file", "path": f"{folder / 'state'}/"}
    return tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()


def with_header(**changes):
    def forge(folder):
        header = json.loads(stored(folder).read(b"w/.zarray").result().value) | changes
        stored(folder).write(b"w/.zarray", json.dumps(header).encode()).result()

    return forge


def bomb(folder):
    """A few kilobytes that are a hundred megabytes when they are unpacked."""
    apart = {"driver": "file", "path": f"{folder.parent.parent / 'bomb'}/"}
    size = [1, 100_000_000]
    header = {"shape": size, "chunks": size, "dtype": "|u1", "compressor": {"id": "zstd"}}
    spec = {"driver": "zarr", "kvstore": apart, "metadata": header,
            "store_data_equal_to_fill_value": True}  # fmt: skip
    tensorstore.open(spec, create=True).result().write(np.zeros(size, np.uint8)).result()
    packed = (folder.parent.parent / "bomb" / "0.0").read_bytes()
    assert len(packed) < 20_000
    stored(folder).write(b"w/0.0", packed).result()


def link(folder):
    (folder.parent.parent / "elsewhere").write_bytes((folder / "notes" / "metadata").read_bytes())
    (folder / "notes" / "metadata").unlink()
    (folder / "notes" / "metadata").symlink_to(folder.parent.parent / "elsewhere")


def link_to_folder(folder):
    folder.rename(folder.parent.parent / "elsewhere")
    folder.symlink_to(folder.parent.parent / "elsewhere")


def notes(content):
    return lambda folder: (folder / "notes" / "metadata").write_text(content)


HOSTILE = {
    "a huge shape": (with_header(shape=[10**9, 10**9]), "not compatible with the stored shape"),
    "huge pieces": (with_header(chunks=[10**6, 10**6]), "more bytes than we reserved"),
    "a pickled array": (with_header(dtype="|O"), "Unsupported zarr dtype"),
    "numbers of another type": (with_header(dtype="<f8"), "error while reading"),
    "a bomb": (bomb, "error while reading"),
    "a link to a file": (link, "metadata is a link"),
    "a link to a folder": (link_to_folder, "2 is a link"),
    "notes that are none": (notes("[]"), "its notes are not what is written there"),
    "notes without a bottom": (notes("[" * 100_000), "recursion"),
    "broken metadata": (lambda f: cut(f / "_CHECKPOINT_METADATA"), None),
    "no arrays": (lambda f: shutil.rmtree(f / "state"), "was not found in the checkpoint"),
}


# Orbax leaves behind the reads that it had begun when one of them fails.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_forged_one_is_one_line_and_the_one_before_it_is_taken(folder, capfd, name):
    """Whoever forges a checkpoint can seal it as well."""
    forge, message = HOSTILE[name]
    forge(folder / "2")
    checkpoints._seal(folder / "2")
    most = peak_memory()
    if message is None:  # nothing that a run needs is in it
        assert restore(folder).step == 2
    else:
        with pytest.warns(UserWarning, match=rf"2 is damaged \(.*{message}") as told:
            assert restore(folder).step == 1
        assert len(told) == 1
        assert len(str(told[0].message)) < 600
        assert sorted(path.name for path in folder.iterdir()) == ["1", "2.damaged"]
    assert most() < 50_000_000
    assert capfd.readouterr().err == ""
