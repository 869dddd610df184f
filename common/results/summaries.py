"""Records in a form short enough to be committed: all final figures, thinned curves.

A summary is a file of JSON lines too. Its first line is what all records of a run share (benchmark,
preset, command, configuration, provenance); each further line is one record without that. Where
methods were run at different times, there is such a line before the records of each run. Final
figures are kept to the last bit, so tables made from a summary are those made from the records;
curves are thinned and rounded to what a figure can show. Of pictures, records whose setting has the
key "picture", every pixel is kept: bytes, compressed (zlib, base64), {"zlib": "..."}. A column that
an earlier record has too (the number of gradients, say, which is the same for all methods) is given
by the number of that record, counted from 0.

Where the lines of records would be longer than `LARGE`, there is one in their stead, which is all of
them, compressed (LZMA, base85): {"lzma": "..."}.
"""

import base64
import binascii
import dataclasses
import json
import lzma
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.files import write_whole
from common.results.records import Record, json_ready, parse_record, plain

POINTS = 32
"""The most points a kept curve has; its first and last are always among them."""

DIGITS = 4
"""Significant digits of a kept curve, enough for a figure a thousand pixels high."""


LARGE = 2**20
"""Bytes of records up to which they are kept as lines that anyone can read."""

_MOST = 2**28
"""Bytes that compressed records may unpack to."""


def write_summary(records: Sequence[Record], path: Path) -> None:
    """Writes the summary of an experiment, replacing the file in one go.

    Args:
        records: of one experiment, in the order in which they are to be read; most often of one
            run, in the order in which it wrote them.
        path: the file; its folder is made where it is missing.

    Raises:
        ValueError: if there are no records, or they are of several experiments.
    """
    experiments = {r.origin.get("benchmark") for r in records}
    if len(experiments) != 1:
        raise ValueError(
            f"a summary is of one experiment, got records of {len(experiments)}; pass those of "
            "`last_run`."
        )
    lines = []
    origin = records[0].origin
    first: dict[tuple[str, str], int] = {}  # (name, content) of a column: the record it is first in
    for i, record in enumerate(records):
        if record.origin != origin:
            origin = record.origin
            lines.append({"origin": json_ready(origin)})
        # The columns of a picture are its pixels, which must not be thinned.
        curve = record.curve if "picture" in record.setting else _thinned(record.curve)
        fields = dataclasses.asdict(dataclasses.replace(record, curve=curve))
        del fields["origin"]
        line = json_ready(fields)
        for name, column in line["curve"].items():
            number = first.setdefault((name, json.dumps(column)), i)
            new = _packed(column) if "picture" in record.setting else column
            line["curve"][name] = new if number == i else number
        lines.append(line)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(map(_line, lines))
    if len(text) > LARGE:
        packed = lzma.compress(text.encode(), preset=9)
        text = _line({"lzma": base64.b85encode(packed).decode()})
    write_whole(path, _line({"origin": json_ready(records[0].origin)}) + text)


def _line(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, allow_nan=False, separators=(",", ":")) + "\n"


def read_summary(path: Path) -> list[Record]:
    """The records of a summary, oldest first, each with its origin.

    Args:
        path: a file that `write_summary` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a line is not a record, or they are damaged; the message names the line.
    """
    first, *lines = path.read_bytes().splitlines() or [b""]
    origin = _origin_of(first, f"{path}:1")
    records: list[Record] = []
    for i, line in enumerate(_unpacked_lines(lines, path), start=2):
        where = f"{path}:{i}"
        if line.startswith(_ORIGIN):
            origin = _origin_of(line, where)
            continue
        record = parse_record(_written_out(line, records, where), where)
        records.append(dataclasses.replace(record, origin=origin))
    return records


_ORIGIN = b'{"origin":'


def _origin_of(line: bytes, where: str) -> Any:
    """What a line says of where the records after it come from."""
    try:
        return plain(json.loads(line)["origin"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{where} does not say where its records come from; write it with write_summary."
        ) from error


def _unpacked_lines(lines: list[bytes], path: Path) -> list[bytes]:
    """The lines of records, which may be compressed into one."""
    if len(lines) != 1 or not lines[0].startswith(b'{"lzma":'):
        return lines
    try:
        packed = base64.b85decode(json.loads(lines[0])["lzma"])
        unpacking = lzma.LZMADecompressor()
        text = unpacking.decompress(packed, max_length=_MOST)
        if not unpacking.eof:
            raise ValueError("cut short, or too large")
    except (ValueError, TypeError, lzma.LZMAError) as error:
        raise ValueError(
            f"{path}:2 holds no records (they are damaged: {error}); take the run anew."
        ) from error
    return text.splitlines()


def _written_out(line: bytes, earlier: Sequence[Record], where: str) -> str | bytes:
    """A line with its columns in full, those of earlier records included."""
    try:
        fields = json.loads(line)
        fields["curve"] = {
            name: json_ready(earlier[column].curve[name])
            if isinstance(column, int)
            else _unpacked(column)
            for name, column in fields["curve"].items()
        }
    except (binascii.Error, zlib.error) as error:
        raise ValueError(
            f"{where} is not a record (its pixels are damaged: {error}); take the run anew."
        ) from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return line  # not a record: `parse_record` raises the error
    return json.dumps(fields)


def _packed(column: list[float]) -> list[float] | dict[str, str]:
    """A column of bytes, compressed; any other as it is."""
    values = np.asarray(column)
    if values.dtype.kind != "i" or values.size == 0 or values.min() < 0 or values.max() > 255:
        return column
    packed = zlib.compress(values.astype(np.uint8).tobytes(), 9)
    return {"zlib": base64.b64encode(packed).decode()}


def _unpacked(column: Any) -> Any:
    """What `_packed` was given."""
    if not isinstance(column, dict):
        return column
    return list(zlib.decompress(base64.b64decode(column["zlib"], validate=True)))


def _thinned(curve: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """At most `POINTS` entries of each column, the same ones of all, rounded to `DIGITS`."""
    length = max((len(column) for column in curve.values()), default=0)
    kept = np.unique(np.linspace(0, length - 1, min(length, POINTS)).round().astype(int))
    return {name: [_rounded(column[i]) for i in kept] for name, column in curve.items()}


def _rounded(value: float) -> float:
    """To `DIGITS` significant digits."""
    return float(f"{value:.{DIGITS}g}")
