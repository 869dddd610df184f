"""Volumes of subjects with a table beside them, in the layout of ADNI-like studies.

    ROOT/subjects.csv          subject,label,age,...       one row a subject
    ROOT/volumes/SUBJECT.npy   [depth, height, width]      registered and cropped alike

The domain is an attribute of the subject, cut into ranges: age, for instance.
"""

import csv
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.data.domains import DomainDataset, from_domains
from common.data.stored import read_array


def read_volumes(
    root: Path | str, *, domain: str, edges: Sequence[float], label: str = "label"
) -> DomainDataset:
    """Reads the volumes of all subjects whose label and attribute are known.

    Subjects with an empty cell in either column are left out.

    Args:
        root: the folder, as above.
        domain: the column of the attribute that domains are made of, a number a subject.
        edges: ascending; domain 0 is below the first, domain 1 from the first on and below the
            second, and so on: one domain more than edges.
        label: the column of the class; classes are numbered in the order of their sorted names.

    Returns:
        Volumes float32 [n, depth, height, width, 1], in the order of the table. A domain may be
        empty.

    Raises:
        FileNotFoundError: if folder, table or a subject's volume is missing.
        ValueError: if a column is missing, an attribute is no number, volumes differ in shape or
            hold what is no number, the edges do not ascend, or no subject is left.
    """
    root = Path(root).expanduser()
    table = root / "subjects.csv"
    if not table.exists():
        raise FileNotFoundError(
            f"no table {table}; the data are looked for as {root}/subjects.csv (a header with "
            f"subject, {label} and {domain}) and {root}/volumes/SUBJECT.npy. Studies such as ADNI "
            "give them out on request only, so they have to be put there by hand."
        )
    if not edges or any(not a < b for a, b in itertools.pairwise(edges)):
        raise ValueError(f"edges must ascend, one at least, got {list(edges)}.")
    rows = _rows(table, ("subject", label, domain))
    if not rows:
        raise ValueError(f"{table} has no subject whose {label} and {domain} are known.")
    values = [_number(row[domain], f"{domain} of {row['subject']} in {table}") for row in rows]
    classes = sorted({row[label] for row in rows})
    volumes = [_volume(root, row["subject"]) for row in rows]
    shapes = sorted({volume.shape for volume in volumes})
    if len(shapes) > 1 or len(shapes[0]) != 3:
        raise ValueError(
            f"volumes below {root} must all have one shape [depth, height, width], got "
            f"{', '.join(map(str, shapes))}; register and crop them alike."
        )
    bounds = ["", *(f"{edge:g}" for edge in edges), ""]
    return from_domains(
        np.stack(volumes)[..., None],
        np.asarray([classes.index(row[label]) for row in rows]),
        np.searchsorted(np.asarray(edges), np.asarray(values), side="right"),
        class_names=classes,
        domain_names=[f"{domain} {low}-{high}" for low, high in itertools.pairwise(bounds)],
        name=root.name,
    )


def _rows(table: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        header = reader.fieldnames or []
        missing = [column for column in columns if column not in header]
        if missing:
            raise ValueError(
                f"{table} lacks the columns {', '.join(missing)}; it has {', '.join(header)}."
            )
        return [row for row in reader if all(row[column] for column in columns)]


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise ValueError(f"{where} must be a number, got {text!r}.")
    return value


def _volume(root: Path, subject: str) -> np.ndarray:
    path = root / "volumes" / f"{subject}.npy"
    # A table must not lead out of its folder.
    if path.parent != root / "volumes" or not path.exists():
        raise FileNotFoundError(f"no volume {path} of the subject {subject!r} in the table.")
    return read_array(path).astype(np.float32)
