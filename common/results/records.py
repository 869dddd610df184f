"""Results as evidence: append-only JSON lines, one a (method, setting, seed).

A line holds the keys benchmark, preset, method, setting, seed, metrics, curve, wall_time, run and
provenance. Figures that are not finite (a diverged loss) are written as null, since JSON has no
word for them, and read back as NaN.
"""

import dataclasses
import json
import math
import re
import unicodedata
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.files import append_whole, cut_unfinished_line, sync

Scalar = str | int | float | bool | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One run of one method, in one setting, from one seed."""

    method: str
    """The method's name, as it stands in tables."""
    setting: Mapping[str, Scalar]
    """What was varied, beside method and seed: step size, workers, search steps."""
    seed: int
    metrics: Mapping[str, float]
    """Final figures. Fractions are fractions, times are seconds."""
    curve: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    """Columns of equal length; by convention one of them is the abscissa (epoch, step, clock)."""
    wall_time: float
    """Seconds of the computation that this record came from; runs vmapped together share it."""
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Filled in by the writer: benchmark, preset, run, configuration, provenance."""

    def __post_init__(self):
        """Refuses a curve with columns of unequal length."""
        lengths = {name: len(column) for name, column in self.curve.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the columns of a curve must be equally long, got {lengths}.")


class RecordWriter:
    """Appends records to one file; each line is written whole, or not at all."""

    def __init__(self, path: Path, *, origin: Mapping[str, Any]):
        """Opens `path` for appending, creating it and its folder where they are missing.

        A last line that an interrupted writer left unfinished is cut off first.

        Args:
            path: the JSON-lines file.
            origin: what every record of this run shares: the keys benchmark, preset, run,
                configuration and provenance.
        """
        self._path, self._origin = path, dict(origin)
        path.parent.mkdir(parents=True, exist_ok=True)
        cut_unfinished_line(path)
        path.touch()
        sync(path.parent)

    def write(self, record: Record) -> Record:
        """Appends one record, and returns it with its origin filled in.

        Raises:
            ValueError: if `read_records` would refuse the line, or a setting would be lost; nothing
                is written then.
            OSError: if the line cannot be written to its end, on a full disk say; all lines that
                were there are, and nothing else.
        """
        record = dataclasses.replace(record, origin=self._origin)
        # Before it is in the file, which is only appended to: a bad line would spoil the others.
        try:
            line = _line(record)
            _parsed(line)
        except _NO_RECORD as error:
            raise ValueError(
                f"a record cannot be written to {self._path} ({error}); give names, numbers, "
                "true, false or None as settings, and figures as metrics and in curves."
            ) from error
        append_whole(self._path, line.encode())
        return record


def read_records(path: Path) -> list[Record]:
    """Reads every complete record of a file, oldest first.

    Args:
        path: a file that `RecordWriter` wrote. A last line that was cut off, by a power cut say, is
            left out with a warning; the next `RecordWriter` removes it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a complete line is not a record; the message names the line.
    """
    *lines, rest = path.read_bytes().split(b"\n")
    if rest:
        warnings.warn(
            f"{path}:{len(lines) + 1} is cut off and left out; what stands before it is whole.",
            stacklevel=2,
        )
    return [parse_record(line, f"{path}:{i}") for i, line in enumerate(lines, start=1)]


def last_run(records: Iterable[Record]) -> list[Record]:
    """The records of the run that wrote last, in the order written."""
    records = list(records)
    return [r for r in records if r.origin.get("run") == records[-1].origin.get("run")]


def parse_record(line: str | bytes, where: str) -> Record:
    """The record that a line of JSON holds; keys that are no field of `Record` are its origin.

    Args:
        line: one line of a file; bytes are UTF-8.
        where: its place, "file:line", for the error.

    Raises:
        ValueError: if it is not a record.
    """
    try:
        return _parsed(line)
    except _NO_RECORD as error:
        raise ValueError(
            f"{where} is not a record ({error}); remove the line, or name another file."
        ) from error


_NO_RECORD = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What `_parsed` raises where a line is not a record."""


def _parsed(line: str | bytes) -> Record:
    """The record that a line holds."""
    of_record = {field.name for field in dataclasses.fields(Record)} - {"origin"}
    fields = plain(json.loads(line))
    if not isinstance(fields, dict):
        raise TypeError("no JSON object")
    origin = {key: fields.pop(key) for key in list(fields) if key not in of_record}
    fields["metrics"] = {name: _figure(value) for name, value in fields["metrics"].items()}
    fields["curve"] = {
        name: [_figure(value) for value in column] for name, column in fields["curve"].items()
    }
    record = Record(**fields, origin=origin)
    _check_types(record)
    return record


def _line(record: Record) -> str:
    """A record as a line of JSON."""
    for name, value in record.setting.items():
        # Null would be read as None, which is another setting; of a figure, it is read as NaN.
        if value is not None and json_ready(value) is None:
            raise ValueError(f"setting {name!r} is {value}, for which JSON has no word")
    fields = dataclasses.asdict(record)
    origin = fields.pop("origin")
    return json.dumps(json_ready({**origin, **fields}), allow_nan=False) + "\n"


def _figure(value: Any) -> float:
    """A figure as it was before it was written."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no figure")
    return value


def _check_types(record: Record) -> None:
    """Refuses fields that are not of the types of a record's."""
    if not isinstance(record.method, str) or not isinstance(record.setting, Mapping):
        raise TypeError("method is a name, and setting holds values by name")
    if not all(isinstance(value, Scalar) for value in record.setting.values()):
        raise TypeError("the values of a setting are names, numbers, true, false or null")
    if not isinstance(record.seed, int) or not isinstance(record.wall_time, int | float):
        raise TypeError("seed is a whole number, and wall_time a number")


_ACTED_UPON = re.compile(r"[<>|`\[\]$*]")
"""What Markdown, HTML or a plot's mathematics would act upon; no name of ours has any of it."""


def plain(value: Any) -> Any:
    """JSON's values with every text harmless, wherever it will be shown.

    Records are files that anyone can edit. Of their names, a terminal would obey control
    characters, and tables, pages and plots mark-up; these characters are replaced by their code
    points. Names of our experiments have none of them, and stay as they are, as does what has been
    replaced already.

    Args:
        value: of JSON's types, however nested.

    Example:
        >>> print(plain("G = g g^T"), plain("<b>"))
        G = g g^T \\u003cb\\u003e
    """
    if isinstance(value, str):
        return value if value.isalnum() else "".join(map(_shown, value))
    if isinstance(value, list):
        return [plain(item) if isinstance(item, str | list | dict) else item for item in value]
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    return value


def _shown(character: str) -> str:
    # Category C holds control characters and those that turn the direction of text; Zl and Zp
    # break lines.
    harmful = unicodedata.category(character)[0] == "C" or character in "\u2028\u2029"
    return f"\\u{ord(character):04x}" if harmful or _ACTED_UPON.match(character) else character


def json_ready(value: Any) -> Any:
    """JSON's own types for everything; null for figures that are not finite.

    Args:
        value: mappings, sequences, scalars, NumPy and JAX arrays and paths, however nested.
    """
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(item) for item in value]
    if hasattr(value, "tolist"):  # numpy and jax, scalars and arrays
        return json_ready(np.asarray(value).tolist())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
