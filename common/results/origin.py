"""The origin of a result: code, versions, device, time."""

import functools
import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
_ROOT = Path(__file__).resolve().parents[2]
_SOURCES = ("gsgd_jax", "dcasgd_jax", "lacim_jax", "common", "benchmarks")
"""The packages that results are computed by. All that they are made of is Python."""


@functools.cache
def git_commit() -> str:
    """The commit of this checkout; where its code differs from that, a digest of it too.

    It is "COMMIT+changes-DIGEST" then, whether files were changed, added or removed, and
    "unknown-DIGEST" outside a git checkout, or where git is missing: of equal names the code is the
    same. What is no code, evidence and documentation say, does not count.
    """
    patterns = [f"{package}/*.py" for package in _SOURCES]
    try:
        if _git("ls-files", "--", *patterns):  # else a copy in some other project's checkout
            commit = _git("rev-parse", "HEAD")
            changed = _git("status", "--porcelain", "--untracked-files=all", "--", *patterns)
            return f"{commit}+changes-{_digest()}" if changed else commit
    except (OSError, subprocess.CalledProcessError):
        pass
    return f"unknown-{_digest()}"


def _digest() -> str:
    """Eight digits that tell one state of the code from another."""
    content = hashlib.sha256()
    for path in sorted(path for name in _SOURCES for path in (_ROOT / name).rglob("*.py")):
        text = path.read_bytes()
        content.update(f"{path.relative_to(_ROOT).as_posix()} {len(text)}\n".encode() + text)
    return content.hexdigest()[:8]


def shortened(commit: str) -> str:
    """What `git_commit` says, in as many digits as tell commits apart.

    Args:
        commit: of a record, whenever it was made.

    Example:
        >>> shortened("20771f59b7ecfb6dcebaaa3ce0c8cbc1bf8b3a59+changes-1a2b3c4d")
        '20771f59b7ec+changes-1a2b3c4d'
    """
    return re.sub(r"^([0-9a-f]{12})[0-9a-f]{28}", r"\1", commit)


def _git(*arguments: str) -> str:
    """What git prints, run in this checkout."""
    done = subprocess.run(
        ["git", *arguments], cwd=_ROOT, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@functools.cache
def versions() -> dict[str, str]:
    """The versions that a result depends on: Python's and the numerical packages'."""
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), **packages}


def device() -> dict[str, Any]:
    """The devices that jax computes on, and the machine around them."""
    first = jax.devices()[0]
    return {
        "platform": first.platform,
        "kind": first.device_kind,
        "count": jax.device_count(),
        "processes": jax.process_count(),
        "machine": platform.machine(),
        "cores": _cores(),
    }


def _cores() -> int | None:
    """How many cores this process may use."""
    # Not every system has affinities.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def now() -> str:
    """The time in UTC, to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def provenance(*, dtype: str = "float32") -> dict[str, Any]:
    """Everything above as one JSON-ready object.

    Args:
        dtype: the dtype that the experiment computes in.
    """
    return {
        "git_commit": git_commit(),
        "versions": versions(),
        "device": device(),
        "dtype": dtype,
        "time": now(),
    }
