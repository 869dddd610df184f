"""What is promised to users outside the code: versions, extras, what is public, how to cite."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from benchmarks.docs import package_page
from tests.test_readme import README, SNIPPETS

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "benchmarks" / "docs" / "pages"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
REQUIRED = {"jax", "flax", "optax", "chex", "jaxtyping", "numpy"}


def page(name):
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


def normal(distribution):
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_every_extra_is_documented_and_no_other():
    extras = re.findall(r"^\| `(\w+)` \|", page("install"), re.MULTILINE)
    assert extras == list(PROJECT["optional-dependencies"])
    sentence = re.search(r" require (.*?), and nothing else", page("install"), re.DOTALL)
    assert sentence is not None
    assert set(re.findall(r"`([\w-]+)`", sentence[1])) == REQUIRED


def test_every_requirement_is_locked():
    """What `make setup` installs is pinned: a requirement without a pin would drift.

    It does not install torch, whose pins of NVIDIA's libraries would be others than JAX's.
    """
    pinned = {normal(name) for name in re.findall(r"^([\w.-]+)==", LOCK, re.MULTILINE)}
    extras = PROJECT["optional-dependencies"]
    locked = MAKEFILE.partition("\nLOCKED := ")[2].splitlines()[0].split()
    assert sorted([*locked, "torch"]) == sorted(extras)
    extras = [text for extra in locked for text in extras[extra]]
    named = {normal(Requirement(text).name) for text in [*PROJECT["dependencies"], *extras]}
    assert named <= pinned


def locked(name, python):
    """The version that a Python gets."""
    found = re.findall(rf"^{name}==(\S+)(?: ; python_full_version (<|>=) '3\.12')?$", LOCK,
                       re.MULTILINE)  # fmt: skip
    (version,) = [v for v, side in found if side in ("", "<" if python == "3.11" else ">=")]
    return version


def test_the_versions_said_to_be_tested_are_those_locked():
    tested = page("stability").partition("## What is tested")[2]
    header, _, *rows = [line for line in tested.splitlines() if line.startswith("| ")]
    _, *libraries = re.findall(r"[\w.]+", header)
    assert set(libraries) == REQUIRED
    assert len(rows) == 2
    for row in rows:
        python, *versions = re.findall(r"[\w.]+", row)
        assert versions == [locked(name, python) for name in libraries]
        assert f"Python {python} (JAX {locked('jax', python)[:6]}" in README
        classifier = f"Programming Language :: Python :: {python}"
        assert classifier in PROJECT["classifiers"]


def test_the_oldest_version_that_is_accepted_is_tested():
    for text in PROJECT["dependencies"]:
        requirement = Requirement(text)
        if requirement.name in ("jax", "flax", "optax", "chex"):
            assert str(requirement.specifier) == f">={locked(requirement.name, '3.11')}"


def test_what_is_said_to_be_public_is_what_the_reference_has():
    told = re.findall(r"^\| `([\w.]+)` \| \[names\]\(api/(\S+)\.md\) \|$", page("stability"),
                      re.MULTILINE)  # fmt: skip
    assert sorted(name for name, _ in told) == sorted(path.stem for path in PAGES.glob("api/*.md"))
    assert all(name == target for name, target in told)


def test_changelog_and_citation_are_of_this_version():
    versions = re.findall(r"^## (\d\S*?)[, ]", page("changelog"), re.MULTILINE)
    assert versions[0] == PROJECT["version"]
    assert f"version = {{{PROJECT['version']}}}" in page("citation")
    assert PROJECT["authors"][0]["name"] in page("citation")
    for url in PROJECT["urls"].values():
        assert f"url       = {{{url}}}" in page("citation")


def test_the_page_of_the_package_is_the_readme_without_what_only_a_checkout_has():
    text = package_page.package_page(README, PROJECT["urls"])
    kept = package_page.PAGE.read_text(encoding="utf-8")
    assert kept == text, "make it anew: python -m benchmarks.docs.package_page"
    assert re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL) == SNIPPETS
    assert all(url.startswith("https://") for url in re.findall(r"\]\(([^)]+)\)", text))
    assert "make test" not in text


@pytest.mark.parametrize("address", ["https://host.example/owner/name", "https://a.example/b/"])
def test_with_an_address_all_links_of_the_page_lead_to_the_repository(address):
    text = package_page.package_page(README, {"Repository": address})
    links = re.findall(r"\]\(([^)]+)\)", text)
    files = [link for link in links if link.startswith(address)]
    assert len(files) == len(re.findall(r"(?<!!)\[[^\]]*\]\((?!https?:|#)", README)) > 5
    for link in files:
        target = link.removeprefix(address.rstrip("/") + "/blob/main/").partition("#")[0]
        assert (ROOT / target).exists(), link
    assert all(link.startswith("https://") for link in links)
    assert "![" not in text
