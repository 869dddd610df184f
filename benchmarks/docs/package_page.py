"""What a package index shows: `python -m benchmarks.docs.package_page` makes it of the README.

There a link to a file of the repository would lead nowhere, and a picture would be missing. Where
`pyproject.toml` names the repository's address, links lead there; else their text stands alone.
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

from benchmarks.judgement.page import BEGIN, END

ROOT = Path(__file__).resolve().parents[2]
PAGE = Path(__file__).with_name("package.md")

_MARKS = re.compile(rf"^({re.escape(BEGIN)}|{re.escape(END)})\n", re.MULTILINE)
_PICTURE = re.compile(r"!\[[^\]]*\]\((?!https?:)[^)]*\)\n\n")
_LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|#)([^)\s]+)\)")
_OF_A_CHECKOUT = ("Two commands", "What the papers claim", "Read on")
_CLOSING = (
    "Documentation, notebooks, and the experiments with what they found are in the repository.\n"
)


def package_page(readme: str, urls: Mapping[str, str]) -> str:
    """The README without what only a checkout has.

    Args:
        readme: Markdown, its sections under titles of the second level.
        urls: `project.urls` of pyproject.toml; "Repository" is the one that links lead to.
    """
    text = _PICTURE.sub("", _MARKS.sub("", readme))
    repository = urls.get("Repository")
    if repository is not None:
        return _LINK.sub(rf"[\1]({repository.rstrip('/')}/blob/main/\2)", text)
    sections = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    kept = [part for part in sections if not part.removeprefix("## ").startswith(_OF_A_CHECKOUT)]
    return _LINK.sub(r"\1", "".join(kept)) + _CLOSING


def urls() -> Mapping[str, str]:
    """`project.urls` of pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["project"]["urls"]


def main() -> None:
    """Writes the page."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    PAGE.write_text(package_page(readme, urls()), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
