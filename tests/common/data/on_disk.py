"""Full data sets that a machine may have beside the repository: where, and what to do without."""

import os
from pathlib import Path

import pytest

_NEAR = Path(__file__).resolve().parents[4] / "shared" / "data"
DATA_DIR = Path(os.environ.get("TFDS_DATA_DIR") or _NEAR / "tfds")
PACS = Path(os.environ.get("PACS_NPZ") or _NEAR / "pacs_64.npz")


def needs(name: str):
    """Leaves a test out, with the reason, where a set is not prepared."""
    there = any(DATA_DIR.glob(f"{name}/*/dataset_info.json"))
    reason = f"needs {name} prepared as array_record in TFDS_DATA_DIR ({DATA_DIR})"
    return pytest.mark.skipif(not there, reason=reason)


def needs_pacs():
    """Likewise for PACS, which is one file."""
    return pytest.mark.skipif(not PACS.exists(), reason=f"needs PACS as PACS_NPZ ({PACS})")
