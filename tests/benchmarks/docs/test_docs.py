"""The documentation: what its pages name, link and run is there, and what the build adds."""

import base64
import functools
import importlib
import inspect
import re
import sys
import types
from pathlib import Path

import jax
import pytest

from benchmarks.docs import hooks, pictures
from benchmarks.harness import registry
from tests.dcasgd_jax.actors import accidents

DOCS = Path(hooks.__file__).parent
PAGES = DOCS / "pages"
TEXTS = {
    path.relative_to(PAGES).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(PAGES.rglob("*.md"))
}
GO_ON = "<!-- snippets follow one another -->"


def snippets_of(text):
    """Those of a page; one where each goes on from the one before."""
    found = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return ["".join(found)] if GO_ON in text else found


SNIPPETS = [
    (name, i, code) for name, text in TEXTS.items() for i, code in enumerate(snippets_of(text))
]
EXPERIMENTS = hooks.experiments()
PACKAGES = (
    "gsgd_jax",
    "gsgd_jax.family",
    "dcasgd_jax",
    "dcasgd_jax.peers",
    "dcasgd_jax.actors",
    "lacim_jax",
    "lacim_jax.baselines",
)
METHODS = [package for package in PACKAGES if "." not in package]
# No public name is below them.
INTERNAL = ("gsgd_jax.solver", "gsgd_jax.tracing.algebra", "gsgd_jax.tracing.rules")
WITHIN = {
    "gsgd_jax.coordinates": "gsgd_jax",
    "gsgd_jax.tracing": "gsgd_jax",
    "dcasgd_jax.rules": "dcasgd_jax",
    "dcasgd_jax.schedules": "dcasgd_jax",
    "dcasgd_jax.simulator": "dcasgd_jax",
    "lacim_jax.model": "lacim_jax",
    "lacim_jax.inference": "lacim_jax",
    "lacim_jax.looking": "lacim_jax",
    "lacim_jax.identifiability": "lacim_jax",
}
"""Sub-packages whose names are documented with the package that exports them too."""


def documented(package):
    return re.findall(r"^::: (\S+)$", TEXTS[f"api/{package}.md"], re.MULTILINE)


def in_nav(entry):
    if isinstance(entry, str):
        return [entry]
    values = entry.values() if isinstance(entry, dict) else entry
    return [page for value in values for page in in_nav(value)]


def found(identifier):
    module, _, name = identifier.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_every_page_is_in_the_navigation_and_every_entry_is_a_page():
    _, _, nav = (DOCS / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")
    assert sorted(re.findall(r": (\S+)$", nav, re.MULTILINE)) == sorted(TEXTS)


def test_nothing_that_the_site_runs_is_fetched():
    """The plugin that makes the site searchable as a file would fetch this script, were it not."""
    settings = (DOCS / "mkdocs.yml").read_text(encoding="utf-8")
    (script,) = re.findall(r"^  polyfills: \[(\S*iframe-worker\S*)\]$", settings, re.MULTILINE)
    assert (PAGES / script).is_file()
    assert re.search(r"^  - offline\b", settings, re.MULTILINE)
    assert not re.search(r"extra_(javascript|css):\n\s+- http", settings)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_documented_in_order(package):
    names = [identifier.rpartition(".")[2] for identifier in documented(package)]
    assert names == importlib.import_module(package).__all__


@pytest.mark.parametrize("package", PACKAGES)
def test_what_is_documented_is_what_is_exported(package):
    exported = importlib.import_module(package)
    for identifier in documented(package):
        name = identifier.rpartition(".")[2]
        thing = found(identifier)
        assert thing is getattr(exported, name)
        # Of a function and its module of one name, a reader of sources takes the module.
        home = getattr(inspect.unwrap(thing), "__module__", "") if callable(thing) else ""
        assert home.rpartition(".")[2] != name or identifier == f"{home}.{name}"


def test_every_package_with_public_names_has_a_page():
    folders = {path.parent for p in METHODS for path in (hooks.ROOT / p).rglob("__init__.py")}
    names = {".".join(folder.relative_to(hooks.ROOT).parts) for folder in folders}
    assert names == {*PACKAGES, *WITHIN, *INTERNAL}
    for package, page in WITHIN.items():
        assert set(importlib.import_module(package).__all__) <= {
            identifier.rpartition(".")[2] for identifier in documented(page)
        }


def test_cross_references_lead_to_what_is_documented():
    targets = {identifier for package in PACKAGES for identifier in documented(package)}
    for name, text in TEXTS.items():
        prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\[([\w.]+)\]", prose):
            assert target in targets, (name, target)


@functools.cache
def anchors(name):
    text = TEXTS[name].replace(hooks.EXPERIMENTS, EXPERIMENTS)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    given = re.findall(r"\{ #(\S+) \}", text)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", t).lower()) for t in titles} | {*given}


def test_links_lead_somewhere_in_the_repository():
    for path in PAGES.rglob("*.md"):
        prose = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", prose):
            assert target.startswith("https://") or (path.parent / target).exists(), (path, target)


def test_links_lead_somewhere_in_the_site():
    there = {path.relative_to(PAGES).as_posix() for path in PAGES.rglob("*") if path.is_file()}
    there |= set(hooks.evidence_sources()) | set(hooks.notebook_sources())
    for name, text in TEXTS.items():
        text = hooks.in_site(text.replace(hooks.EXPERIMENTS, EXPERIMENTS))
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if target.startswith("https://"):
                continue
            file, _, anchor = target.partition("#")
            path = Path(name).parent / file if file else Path(name)
            resolved = (PAGES / path).resolve().relative_to(PAGES).as_posix()
            assert resolved in there, (name, target)
            if anchor and resolved in TEXTS:
                assert anchor in anchors(resolved), (name, target)


def test_the_gallery_has_small_programs_only():
    lengths = [len(code.splitlines()) for name, _, code in SNIPPETS if name == "gallery.md"]
    assert len(lengths) == 9
    assert max(lengths) < 30


@pytest.mark.parametrize(("name", "index", "code"), SNIPPETS)
def test_snippets_run_each_by_itself(name, index, code):
    if "run_asynchronously(" in code:  # in the process that tests/dcasgd_jax/actors starts Ray in
        assert code in accidents.gallery()
        return
    # As users have jax, not as these tests do.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(compile(code, f"{name}, snippet {index}", "exec"), {"__name__": "page"})


def test_pictures_are_those_of_the_script_all_used_and_small():
    files = {path.name: path.stat().st_size for path in pictures.FOLDER.iterdir()}
    assert files.keys() == pictures.PICTURES.keys()
    assert max(files.values()) < 100_000
    shown = set(re.findall(r"!\[[^\]]+\]\(pictures/([^)]+)\)", "".join(TEXTS.values())))
    assert shown == files.keys()


def test_a_picture_is_drawn_anew(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(pictures, "FOLDER", tmp_path)
    pictures.main(["rescaling.png"])
    assert (tmp_path / "rescaling.png").stat().st_size > 1000
    assert "rescaling.png" in capsys.readouterr().out


def test_experiments_are_those_of_the_registry(tmp_path):
    (tmp_path / "gsgd_mlp.md").write_text("# gsgd_mlp")
    text = hooks.experiments(tmp_path)
    for name in registry.NAMES:
        assert f"### {name} {{ #{name} }}" in text
        assert hooks.presets(name) == list(registry.load(name).PRESETS)
    assert text.count("(evidence/") == 1
    assert text.count("not yet") == len(registry.NAMES) - 1
    linked = "[a](../../evidence/README.md#one) [b](../../notebooks/tour.ipynb) [c](latent.md)"
    there = "[a](evidence/index.md#one) [b](notebooks/tour.md) [c](latent.md)"
    assert hooks.on_page_markdown(linked, None, None, None) == there
    page = hooks.on_page_markdown(TEXTS["experiments.md"], None, None, None)
    assert hooks.EXPERIMENTS not in page
    assert hooks.on_page_markdown("other", None, None, None) == "other"


@pytest.mark.parametrize("repository", ["", "https://example.org/owner/name/"])
@pytest.mark.parametrize(
    ("uri", "source"),
    [
        ("api/gsgd_jax.md", "benchmarks/docs/pages/api/gsgd_jax.md"),
        ("notebooks/path_space.md", "benchmarks/notebooks/path_space.py"),
        ("evidence/index.md", None),
    ],
)
def test_every_page_that_is_written_by_hand_says_where_it_is_edited(repository, uri, source):
    assert source is None or (hooks.ROOT / source).is_file()
    page = types.SimpleNamespace(file=types.SimpleNamespace(src_uri=uri), edit_url=None)
    config = types.SimpleNamespace(extra={"repository": repository})
    text = hooks.on_page_markdown("text", page, config, None)
    link = f"https://example.org/owner/name/edit/main/{source}" if source and repository else None
    assert page.edit_url == link
    named = f"text\n\n<small>To edit this page: `{source}`</small>\n"
    assert text == (named if uri.startswith("api") and not repository else "text")


WIDE = "---\nhide:\n  - toc\n---\n\n"


def test_every_experiment_has_a_title_of_its_own():
    assert set(registry.TITLES) == set(registry.NAMES)
    assert len(set(registry.TITLES.values())) == len(registry.TITLES)


def test_evidence_comes_with_its_figures(tmp_path):
    (tmp_path / "README.md").write_text("- [one](one.md)")
    (tmp_path / "one.md").write_text("lambda g*g*(w - w_stale), `a*b`.\nCommand: python -m x")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "cpu.png").write_bytes(b"figure")
    (tmp_path / "one" / "cpu.jsonl").write_text("{}")
    assert hooks.evidence_sources(tmp_path) == {
        "evidence/index.md": "- [one](one.md)",
        "evidence/one.md": WIDE + "lambda g\\*g*(w - w_stale), `a*b`.\n\n```sh\npython -m x\n```",
        "evidence/one/cpu.png": tmp_path / "one" / "cpu.png",
    }


def notebook(*cells):
    return {"cells": [{"cell_type": kind, "source": source, "outputs": outputs}
                      for kind, source, outputs in cells]}  # fmt: skip


def test_a_notebook_becomes_a_page_with_its_pictures():
    image = base64.b64encode(b"picture").decode()
    page, files = hooks.notebook_page(
        notebook(
            (
                "markdown",
                [
                    "# Title\n",
                    "See [a](delay.ipynb), [b](../../README.md), [c](../docs/pages/latent.md).",
                ],
                [],
            ),
            (
                "code",
                "print('`')",
                [{"output_type": "stream", "text": ["\x1b[31m1\x1b[0m\n", "2"]}],
            ),
            ("code", "draw()", [{"data": {"image/png": image, "text/plain": "<Figure>"}}]),
            ("code", "1 + 1", [{"data": {"text/plain": ["2"]}}]),
            ("code", "", []),
            ("raw", "left out", []),
        ),
        "tour",
    )
    assert page.startswith(
        "# Title\nSee [a](delay.md), b, [c](../latent.md).\n\n```python\nprint('`')\n```"
    )
    assert "```text\n1\n2\n```" in page
    assert "```text\n2\n```" in page
    assert "![Output of the cell above](tour_files/2_0.png)" in page
    assert "Figure" not in page
    assert "left out" not in page
    assert files == {"tour_files/2_0.png": b"picture"}


def test_notebooks_need_not_be_there_and_come_in_order(tmp_path):
    assert hooks.notebook_sources(tmp_path / "none") == {}
    for name in ("extra", "latent_causes", "path_space"):
        (tmp_path / f"{name}.ipynb").write_text('{"cells": []}')
    assert list(hooks.notebook_sources(tmp_path)) == [
        "notebooks/path_space.md",
        "notebooks/latent_causes.md",
        "notebooks/extra.md",
    ]


def test_formulas_are_set_in_text_and_in_blocks_and_nowhere_else():
    marked = r'by <span class="arithmatex">\(p(x|s)\)</span>'
    assert hooks.formulas(marked, None) == "by <code>p(x|s)</code>"
    assert hooks.formulas(marked, str.upper) == "by P(X|S)"
    line = hooks.formulas('<div class="arithmatex">\n\\[a\n b\\]</div>', str.upper)
    assert line == '<div class="formula">A B</div>'
    for tag, set_as in (
        ("span", '<math display="inline"></math>'),
        ("div", '<div class="formula"><math display="block"></math></div>'),
    ):
        page = f'<{tag} class="arithmatex">\\(a\\)</{tag}>'
        assert hooks.formulas(page, lambda tex: '<math display="inline"></math>') == set_as
    block = "<pre><span></span><code>$a$ and\n$b &lt; c$\n</code></pre>"
    assert hooks.formulas(block, str.upper) == (
        '<pre class="formula"><span></span><code>A and\nB < C\n</code></pre>'
    )
    doctest = '<pre><span></span><code><span class="n">x</span>$a$</code></pre>'
    assert hooks.formulas(doctest, str.upper) == doctest


def test_a_library_for_formulas_that_is_not_there_is_done_without():
    assert hooks.converter("no_such_library.convert") is None
    assert hooks.converter(None) is None
    assert hooks.converter("html.escape")("<") == "&lt;"


def test_what_mkdocs_calls(monkeypatch):
    made = []
    file = types.SimpleNamespace(generated=lambda config, uri, **source: made.append(uri) or uri)
    module = types.SimpleNamespace(File=file)
    monkeypatch.setitem(sys.modules, "mkdocs.structure.files", module)
    config = hooks.on_config(types.SimpleNamespace(nav=None, extra={"formulas": None}))
    assert set(hooks.on_files([], config)) >= set(in_nav(config.nav)) | {"evidence/index.md"}
    assert hooks.on_page_content("<p>", None, config, None) == "<p>"
