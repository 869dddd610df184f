"""A notebook's two files: cells from the .py, outputs from a run of them in a fresh kernel."""

import base64
import io
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import jupytext
import nbclient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from PIL import Image

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}

Notebook = Any
"""nbformat 4's NotebookNode."""


class NotebookError(ValueError):
    """A notebook that does not run, shows what it should not, or is not what its .py says."""


def from_source(source: Path) -> Notebook:
    """The notebook of a .py file, without outputs; the same file gives the same bytes.

    Args:
        source: in the percent format.
    """
    notebook = jupytext.read(source, fmt="py:percent")
    notebook.metadata = {
        "jupytext": {"cell_markers": 'r"""', "formats": "ipynb,py:percent"},
        "kernelspec": KERNEL,
        "language_info": {"file_extension": ".py", "name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        cell["metadata"] = {}
    return notebook


def run(notebook: Notebook, *, timeout: float = 600.0) -> Notebook:
    """Runs all cells in a fresh kernel, on CPU, from the root of the checkout.

    Args:
        notebook: its cells' outputs are replaced.
        timeout: seconds that one cell may take.

    Raises:
        NotebookError: where a cell fails, the kernel dies, or something is written to stderr.
    """
    # What a reader has in a browser, whatever the caller was told to draw on.
    backend = "module://matplotlib_inline.backend_inline"
    paths = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "MPLBACKEND": backend,
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # else the kernel warns of frozen modules
        "PYTHONPATH": os.pathsep.join(paths),
    }
    client = nbclient.NotebookClient(
        notebook,
        timeout=timeout,
        record_timing=False,
        resources={"metadata": {"path": str(ROOT)}},
    )
    with tempfile.TemporaryDirectory() as own:
        manager = client.create_kernel_manager()
        if os.name == "posix":
            manager.transport = "ipc"  # sockets of the file system: no port, no network
            # By default all kernels have theirs in the working folder, under the same names, and
            # two that start together hear each other.
            manager.ip = str(Path(own) / "kernel")
        try:
            client.execute(env=env)
        except (CellExecutionError, DeadKernelError, TimeoutError) as error:
            raise NotebookError(f"a cell failed:\n{_ANSI.sub('', str(error)).strip()}") from error
    notebook.metadata["language_info"] = {"file_extension": ".py", "name": "python"}
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr":
                raise NotebookError(
                    f"a notebook shows no warnings, but this cell wrote to stderr:\n"
                    f"{cell.source}\n\n{output.text.strip()}"
                )
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = _smaller(data["image/png"])
    return notebook


def figures(notebook: Notebook) -> list[bytes]:
    """The PNG files of all outputs, in order.

    Args:
        notebook: one that was run.
    """
    return [
        base64.b64decode(output["data"]["image/png"])
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
    ]


def render(source: Path) -> Path:
    """Runs a notebook and writes its .ipynb beside its .py.

    Args:
        source: the .py file.

    Returns:
        What was written.

    Raises:
        NotebookError: as `run`, naming the file; what was there before is left.
    """
    try:
        notebook = run(from_source(source))
    except NotebookError as error:
        raise NotebookError(f"{source.name}: {error}") from error
    target = source.with_suffix(".ipynb")
    text = json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False)
    target.write_text(text + "\n", encoding="utf-8")
    return target


def drift(source: Path) -> str | None:
    """What differs between a .py file's cells and its .ipynb's, in a sentence; outputs may.

    Args:
        source: the .py file.

    Returns:
        None where the cells agree and each code cell has been run.
    """
    target = source.with_suffix(".ipynb")
    if not target.exists():
        return f"{target.name} is missing."
    wanted = from_source(source).cells
    found = jupytext.read(target).cells
    if len(wanted) != len(found):
        return f"{source.name} has {len(wanted)} cells and {target.name} {len(found)}."
    for number, (own, other) in enumerate(zip(wanted, found, strict=True)):
        if any(own[part] != other[part] for part in ("cell_type", "source", "id")):
            first = own.source.strip().partition("\n")[0]
            return f"cell {number} of {target.name} is not that of {source.name}, {first!r}."
        if own.cell_type == "code" and other.execution_count is None:
            return f"cell {number} of {target.name} has not been run."
    return None


_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def _smaller(png: str) -> str:
    """A picture in 64 colours, without the metadata of what drew it: a third of the size."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    few, file = picture.quantize(64, dither=Image.Dither.NONE), io.BytesIO()
    few.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
