"""Notebooks: each .ipynb is its .py, runs from top to end, and faults of either are caught."""

import io
import json
import os
import pathlib
import re

import nbclient
import pytest
from PIL import Image

import gsgd_jax
from benchmarks.docs import hooks
from benchmarks.notebooks import NAMES, __main__, pairing

LARGEST = 300_000
FIGURES = {
    "path_space": 4,
    "delayed_gradients": 5,
    "latent_causes": 1,
    "identified_latents": 1,
    "delay_in_path_space": 2,
}
TRAINING = ("delayed_gradients", "latent_causes", "identified_latents")
"""They train for longer than they compile, so programs are compiled halfway well."""


def committed(name):
    return json.loads((pairing.FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))


def images(pngs):
    return [Image.open(io.BytesIO(png)) for png in pngs]


def test_every_notebook_is_named_and_every_pair_agrees():
    assert sorted(path.stem for path in pairing.FOLDER.glob("*.ipynb")) == sorted(NAMES)
    assert FIGURES.keys() == set(NAMES)
    assert __main__.main(["--check"]) == 0


@pytest.mark.parametrize("name", NAMES)
def test_it_begins_with_what_installs_it_and_ends_with_an_exercise(name):
    cells = committed(name)["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    # Beside the wheel there is no checkout: neither a module of it nor one of its style sheets.
    assert not re.search(r"\b(common|benchmarks)\b", "\n".join(code))
    assert f"gsgd_dcasgd_lacim_jax-{gsgd_jax.__version__}-py3-none-any.whl" in code[0]
    assert "if importlib.util.find_spec(" in code[0]
    assert all("import" not in cell.split() for cell in code[2:])  # the first two cells tell all
    assert cells[-1]["cell_type"] == "markdown"
    assert "".join(cells[-1]["source"]).startswith("**Exercise.** ")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_is_small_and_names_no_machine(name):
    path = pairing.FOLDER / f"{name}.ipynb"
    text = path.read_text(encoding="utf-8")
    assert len(text) < LARGEST
    shown = json.dumps([cell.get("outputs") for cell in committed(name)["cells"]])
    shown = re.sub(r'"image/png": "[^"]*"', "", shown)
    assert not re.search(r"(?<![\w.])/(home|root|tmp|usr|work|opt)/|site-packages|\.venv", shown)
    assert set(committed(name)["metadata"]) == {"jupytext", "kernelspec", "language_info"}
    assert all(cell["metadata"] == {} for cell in committed(name)["cells"])


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_in_a_fresh_kernel_and_draws_its_figures(name, monkeypatch):
    if name in TRAINING:
        flags = f"{os.environ['XLA_FLAGS']} --xla_backend_optimization_level=1"
        monkeypatch.setenv("XLA_FLAGS", f"{flags} --xla_llvm_disable_expensive_passes=true")
        monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "false")
    ran = pairing.run(pairing.from_source(pairing.FOLDER / f"{name}.py"))
    assert [cell.execution_count for cell in ran.cells if cell.cell_type == "code"] == list(
        range(1, 1 + sum(cell.cell_type == "code" for cell in ran.cells))
    )
    drawn = images(pairing.figures(ran))
    assert len(drawn) == FIGURES[name]
    for picture in drawn:
        assert min(picture.size) > 200
        colours = picture.convert("RGB").getcolors(maxcolors=256)
        assert colours is not None
        assert len(colours) > 4  # lines on a ground, not an empty frame


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_a_page_of_the_site(name):
    pages = hooks.notebook_sources()
    text = pages[f"notebooks/{name}.md"]
    assert isinstance(text, str)
    assert text.startswith("# ")
    assert text.count("![Output of the cell above]") == FIGURES[name]
    evidence = hooks.evidence_sources()
    for target in re.findall(r"\]\(([^)\s#]+)\)", text):
        if target.startswith("../evidence/"):
            assert target.removeprefix("../") in evidence, target
        elif target.startswith("../"):
            assert (hooks.ROOT / "benchmarks/docs/pages" / target[3:]).exists(), target
        else:
            assert f"notebooks/{target}" in pages, target


SOURCE = '''# %% [markdown]
r"""
# Title, $\\nu$
"""

# %%
print("one")

# %%
{code}
'''


@pytest.fixture
def pair(tmp_path):
    """Writes a notebook's .py and, without running it, an .ipynb that looks as if it had been."""

    def write(code):
        source = tmp_path / "small.py"
        source.write_text(SOURCE.format(code=code))
        notebook = pairing.from_source(source)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell["execution_count"] = 1
        (tmp_path / "small.ipynb").write_text(json.dumps(notebook))
        return source

    return write


def test_the_same_source_gives_the_same_notebook(pair):
    source = pair("1 + 1")
    first = pairing.from_source(source)
    assert first == pairing.from_source(source)
    assert [cell.id for cell in first.cells] == ["cell-0", "cell-1", "cell-2"]
    assert first.cells[0].source == "# Title, $\\nu$"


def test_a_pair_that_drifted_is_caught(pair, tmp_path):
    source = pair("2")
    assert pairing.drift(source) is None
    source.write_text(SOURCE.format(code="3"))
    assert "cell 2 of small.ipynb is not that of small.py, '3'" in str(pairing.drift(source))
    source.write_text(SOURCE.format(code="2\n\n# %%\n4"))
    assert pairing.drift(source) == "small.py has 4 cells and small.ipynb 3."
    (tmp_path / "small.ipynb").write_text(json.dumps(pairing.from_source(source)))
    assert "has not been run" in str(pairing.drift(source))
    (tmp_path / "small.ipynb").unlink()
    assert pairing.drift(source) == "small.ipynb is missing."


def test_the_command_fails_where_a_pair_drifted(pair, monkeypatch, capsys):
    source = pair("2")
    monkeypatch.setattr(__main__, "FOLDER", source.parent)
    monkeypatch.setattr(__main__, "NAMES", ("small",))
    assert __main__.main(["--check"]) == 0
    source.write_text(SOURCE.format(code="3"))
    assert __main__.main(["--check", "small"]) == 1
    assert "python -m benchmarks.notebooks small" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        __main__.main(["other"])
    assert "no notebook is called other; known: small" in capsys.readouterr().err


def test_a_cell_that_fails_is_caught_and_nothing_is_written(pair, monkeypatch, capsys):
    source = pair("raise RuntimeError('broken cell')")
    before = source.with_suffix(".ipynb").read_bytes()
    monkeypatch.setattr(__main__, "FOLDER", source.parent)
    monkeypatch.setattr(__main__, "NAMES", ("small",))
    assert __main__.main([]) == 1
    said = capsys.readouterr().err
    assert "small.py: a cell failed" in said
    assert "broken cell" in said
    assert source.with_suffix(".ipynb").read_bytes() == before


def test_a_run_is_written_with_its_outputs_and_a_warning_is_refused(pair):
    source = pair("import matplotlib.pyplot as plt\n_ = plt.plot([1, 2])\nplt.show()")
    assert pairing.render(source) == source.with_suffix(".ipynb")
    written = json.loads(source.with_suffix(".ipynb").read_text())
    assert written["cells"][1]["outputs"][0]["text"] == "one\n"
    assert "image/png" in written["cells"][2]["outputs"][0]["data"]
    assert pairing.drift(source) is None
    with pytest.raises(pairing.NotebookError, match=r"wrote to stderr:\nimport sys"):
        pairing.run(pairing.from_source(pair("import sys\nprint('w', file=sys.stderr)")))


def test_kernels_that_run_at_once_have_sockets_of_their_own(pair, monkeypatch):
    """By default all are "kernel-ipc-1" and on in the working folder, and hear each other."""
    places = []
    monkeypatch.setattr(
        nbclient.NotebookClient, "execute", lambda self, **_: places.append(self.km.ip)
    )
    for _ in range(2):
        pairing.run(pairing.from_source(pair("1")))
    one, other = map(pathlib.Path, places)
    assert one.is_absolute()
    assert one.parent != other.parent
    assert not one.parent.exists()  # they go with the kernel
