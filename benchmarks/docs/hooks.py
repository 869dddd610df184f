"""What the documentation site shows beside its written pages, made anew at every build.

The evidence with its figures, the notebooks with their outputs, the list of experiments and what is
said of bad input: none of it is copied into the pages, so none of it can be stale. MkDocs calls the
functions named `on_*`. Nothing here needs it before that, nor jax, but for the page of bad inputs,
which tries them.
"""

import ast
import base64
import html
import json
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # MkDocs imports this file by its path
    sys.path.append(str(ROOT))

from benchmarks.harness import registry  # noqa: E402  (the path above must be set first)
from benchmarks.notebooks import NAMES  # noqa: E402  (as above)

EVIDENCE = ROOT / "benchmarks" / "evidence"
NOTEBOOKS = ROOT / "benchmarks" / "notebooks"
EXPERIMENTS = "<!-- experiments -->"
"""Where a page has this line, the list of experiments stands."""

BAD_INPUT = "<!-- bad input -->"
"""Where a page has this line, the tables of bad inputs stand, each tried at this build."""

Sources = dict[str, str | bytes | Path]
"""By path in the site: text, bytes, or the file to take them from."""


def evidence_sources(folder: Path = EVIDENCE) -> Sources:
    """The pages of evidence and their figures, under `evidence/`.

    Args:
        folder: where evidence is kept.
    """
    sources: Sources = {}
    for path in sorted(folder.glob("*.md")):
        text = as_markdown(path.read_text(encoding="utf-8"))
        index = path.name == "README.md"
        text = text.replace("](README.md#", "](index.md#")
        sources[f"evidence/{'index.md' if index else path.name}"] = text if index else _WIDE + text
    for path in sorted(folder.glob("*/*.png")):
        sources[f"evidence/{path.relative_to(folder).as_posix()}"] = path
    return sources


def notebook_sources(folder: Path = NOTEBOOKS) -> Sources:
    """A page for every notebook that has been run, and its pictures, under `notebooks/`.

    Args:
        folder: where notebooks are kept; it need not be there.
    """
    sources: Sources = {}
    for path in _notebooks(folder):
        text, pictures = notebook_page(json.loads(path.read_text(encoding="utf-8")), path.stem)
        sources[f"notebooks/{path.stem}.md"] = text
        sources |= {f"notebooks/{name}": picture for name, picture in pictures.items()}
    return sources


def _notebooks(folder: Path) -> list[Path]:
    place = {name: i for i, name in enumerate(NAMES)}
    found = folder.glob("*.ipynb")
    return sorted(found, key=lambda path: (place.get(path.stem, len(NAMES)), path.stem))


def notebook_page(notebook: Mapping[str, Any], name: str) -> tuple[str, dict[str, bytes]]:
    """A notebook as a Markdown page, and the pictures that it shows.

    Args:
        notebook: nbformat 4, as JSON has it.
        name: of the file, for its pictures' paths and the last line.
    """
    parts, pictures = [], {}
    for number, cell in enumerate(notebook["cells"]):
        source = _joined(cell["source"]).strip("\n")
        if cell["cell_type"] == "markdown":
            parts.append(_linked(source))
        elif cell["cell_type"] == "code" and source:
            parts.append(_fenced(source, "python"))
            for output in cell.get("outputs", ()):
                data = output.get("data", {})
                if "image/png" in data:
                    file = f"{name}_files/{number}_{len(pictures)}.png"
                    pictures[file] = base64.b64decode(_joined(data["image/png"]))
                    parts.append(f"![Output of the cell above]({file})")
                elif "text/markdown" in data:
                    parts.append(_joined(data["text/markdown"]))
                else:
                    text = _joined(output.get("text", data.get("text/plain", "")))
                    text = text or "\n".join(output.get("traceback", ()))
                    if text.strip():
                        parts.append(_fenced(_ANSI.sub("", text).rstrip(), "text"))
    parts.append(f"*This page is the notebook `benchmarks/notebooks/{name}.ipynb`, as it was run.*")
    return "\n\n".join(parts) + "\n", pictures


_WIDE = "---\nhide:\n  - toc\n---\n\n"  # tables take the room of the table of contents
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_ELSEWHERE = re.compile(r"\[([^\]]*)\]\(\.\./\.\./[^)]*\)")  # files of the repository, no pages
_NOTEBOOK = re.compile(r"\]\(([\w-]+)\.(?:ipynb|py)(?=[)#])")


def _linked(text: str) -> str:
    """Links of a notebook as they lead in the site: to other notebooks, its pages, the evidence."""
    text = _NOTEBOOK.sub(r"](\1.md", _ELSEWHERE.sub(r"\1", text))
    text = text.replace("](../docs/pages/", "](../")
    return text.replace("](../evidence/README.md", "](../evidence/index.md")


def _joined(text: str | Sequence[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def _fenced(text: str, language: str) -> str:
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


_COMMAND = re.compile(r"^Command: (.*)$", re.MULTILINE)
_STAR = re.compile(r"(?<=\w)\*(?=\w)")


def as_markdown(text: str) -> str:
    """Prose in which `g*g*w` is a product, not emphasis, and a command is code.

    Args:
        text: Markdown, or an experiment's docstring.
    """
    parts = re.split(r"(`[^`]*`)", text)  # code spans are left alone
    text = "".join(p if i % 2 else _STAR.sub(r"\*", p) for i, p in enumerate(parts))
    return _COMMAND.sub(r"\n```sh\n\1\n```", text).replace(
        " ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}"
    )


def experiments(evidence: Path = EVIDENCE) -> str:
    """Every experiment of the registry: its claim, presets, evidence, and all its docstring says.

    Args:
        evidence: where evidence is kept.
    """
    rows = ["| experiment | what it asks | presets | measured |", "| :-- | :-- | :-- | :-- |"]
    sections = []
    for name in registry.NAMES:
        claim, _, rest = registry.describe(name).partition("\n")
        measured = (evidence / f"{name}.md").exists()
        link = f"[evidence](evidence/{name}.md)" if measured else "not yet"
        sizes = ", ".join(f"`{preset}`" for preset in presets(name))
        rows.append(f"| [`{name}`](#{name}) | {as_markdown(claim)} | {sizes} | {link} |")
        section = f"**{claim}**\n\n{rest.strip()}"
        sections.append(f"### {name} {{ #{name} }}\n\n{as_markdown(section)}")
    return "\n".join(rows) + "\n\n## What each one does\n\n" + "\n\n".join(sections)


def presets(name: str) -> list[str]:
    """The presets of an experiment, read without importing it.

    Args:
        name: of an experiment of the registry.
    """
    for node in ast.parse(registry.source(name)).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(t, ast.Name) and t.id == "PRESETS" for t in targets):
            value = getattr(node, "value", None)
            keys = value.keys if isinstance(value, ast.Dict) else []
            return [str(key.value) for key in keys if isinstance(key, ast.Constant)]
    return []


_MARKED = re.compile(
    r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</(?:span|div)>', re.DOTALL
)
_BLOCK = re.compile(r"(<pre)(><span></span><code>)([^<]*\$[^<]*)(</code></pre>)")
_DOLLARS = re.compile(r"\$([^$]+)\$")


def formulas(page: str, convert: Callable[[str], str] | None) -> str:
    """HTML with TeX between dollars, as some docstrings have it, with the formulas set.

    Args:
        page: HTML in which `pymdownx.arithmatex` marked formulas in text; those of indented blocks
            stand there as they were typed.
        convert: of TeX to MathML; None to leave it as code.
    """

    def formula(tex: str) -> str:
        line = " ".join(tex.split())
        if convert is None:
            return f"<code>{line}</code>"
        return convert(html.unescape(line))

    def marked(match: re.Match[str]) -> str:
        if match[1] == "span":
            return formula(match[2])
        # A line of its own, in full size; one that is too wide is moved, not cut.
        line = formula(match[2]).replace('display="inline"', 'display="block"', 1)
        return f'<div class="formula">{line}</div>'

    def in_block(match: re.Match[str]) -> str:
        lines = _DOLLARS.sub(lambda tex: formula(tex[1]), match[3])
        return f'{match[1]} class="formula"{match[2]}{lines}{match[4]}'

    return _BLOCK.sub(in_block, _MARKED.sub(marked, page))


def converter(name: str | None) -> Callable[[str], str] | None:
    """The function of a name, or None where its library is not installed.

    Args:
        name: with its modules, as mkdocs.yml has it.
    """
    try:
        return pkgutil.resolve_name(name) if name else None
    except ImportError:
        return None


def on_config(config: Any) -> Any:
    """Adds the notebooks and the evidence to the navigation.

    Args:
        config: mkdocs.yml's, with its `nav`.
    """
    found = [f"notebooks/{path.stem}.md" for path in _notebooks(NOTEBOOKS)]
    there = {path.stem for path in EVIDENCE.glob("*.md")} - {"README"}
    names = [name for name in registry.NAMES if name in there]
    names += sorted(there.difference(names))
    titles = {**registry.TITLES, "published": "Published figures: theirs and ours"}
    measured = [{titles.get(name, name): f"evidence/{name}.md"} for name in names]
    nav = list(config.nav or [])
    nav += [{"Notebooks": found}] if found else []
    nav += [{"Evidence": [{"What was measured": "evidence/index.md"}, *measured]}]
    config.nav = nav
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages and pictures that are not written by hand.

    Args:
        files: of the site.
        config: of the site.
    """
    generated = sys.modules["mkdocs.structure.files"].File.generated  # MkDocs is there: it calls
    for uri, source in (evidence_sources() | notebook_sources()).items():
        if isinstance(source, Path):
            files.append(generated(config, uri, abs_src_path=str(source)))
        else:
            files.append(generated(config, uri, content=source))
    return files


def source_of(uri: str) -> str | None:
    """The file of the repository to edit for a page, or None where a command makes the page.

    Args:
        uri: the page's path in the site's sources.
    """
    folder, _, name = uri.partition("/")
    if folder == "evidence":
        return None
    if folder == "notebooks":
        return f"benchmarks/notebooks/{name.removesuffix('.md')}.py"
    return f"benchmarks/docs/pages/{uri}"


_KEPT = re.compile(r"\]\(\.\./\.\./(evidence|notebooks)/([\w-]+)\.(?:md|ipynb)(?=[)#])")


def in_site(text: str) -> str:
    """Links of a page as they lead in the site: in the repository they lead to files.

    Args:
        text: Markdown, of a page in the folder of pages itself.
    """
    return _KEPT.sub(lambda m: f"]({m[1]}/{'index' if m[2] == 'README' else m[2]}.md", text)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Makes links lead within the site, and puts lists where a page asks for them.

    The lists are of experiments, and of bad inputs. And says how the page is edited: by a link,
    where `extra.repository` names the repository's address, or by the name of its file.

    Args:
        markdown: of the page.
        page: whose `edit_url` is set; None for none.
        config: of the site.
        files: not looked at.
    """
    markdown = in_site(markdown)
    if EXPERIMENTS in markdown:
        markdown = markdown.replace(EXPERIMENTS, experiments())
    if BAD_INPUT in markdown:
        from benchmarks.docs import bad_input  # needs jax, which no other page does

        markdown = markdown.replace(BAD_INPUT, bad_input.page())
    source = source_of(page.file.src_uri) if page else None
    if source and (repository := config.extra.get("repository")):
        page.edit_url = f"{repository.rstrip('/')}/edit/main/{source}"
    elif source and source.endswith(".md"):  # a notebook's page says so already
        markdown += f"\n\n<small>To edit this page: `{source}`</small>\n"
    return markdown


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Sets the formulas of a page.

    Args:
        html: of the page.
        page: not looked at.
        config: says by `extra.formulas` how.
        files: not looked at.
    """
    return formulas(html, converter(config.extra.get("formulas")))
