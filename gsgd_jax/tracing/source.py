"""Where in a user's code an equation was written."""

import itertools
from pathlib import Path
from typing import Any

import jax

UNKNOWN = "unknown source"
_OURS, _LIBRARIES = Path(__file__).resolve().parents[1], Path(jax.__file__).parents[1]


def source(eqn: Any) -> str:
    """The innermost line outside of installed packages, else the innermost outside of JAX.

    Args:
        eqn: the equation of which it tells where it was written.
    """
    traceback = eqn.source_info.traceback
    frames = [] if traceback is None else traceback.frames
    outside = [f for f in frames if not _is_below(f.file_name, _OURS)]
    users = [f for f in outside if not _is_below(f.file_name, _LIBRARIES)]
    others = [f for f in outside if not _is_below(f.file_name, Path(jax.__file__).parent)]
    for frame in itertools.islice(itertools.chain(users, others), 1):
        return f"{Path(frame.file_name).name}:{frame.line_num} ({frame.function_name})"
    return UNKNOWN


def _is_below(file: str, folder: Path) -> bool:
    return file.startswith(f"{folder}/") or file.startswith("<frozen")
