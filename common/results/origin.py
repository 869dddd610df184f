"""The origin of a result: code, versions, device, time."""

import functools
import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
_ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def git_commit() -> str:
    """The commit of this checkout, with "+changes" where tracked files differ from it.

    "unknown" outside a git checkout, or where git is missing.
    """
    try:
        commit = _git("rev-parse", "HEAD")
        return f"{commit}+changes" if _git("status", "--porcelain", "-uno") else commit
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


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
