"""The rules of the house that a program can check: length, parameters, exports, docstrings."""

import ast
from collections.abc import Iterator
from pathlib import Path

from benchmarks import notebooks

ROOT = Path(__file__).resolve().parents[1]
METHODS = ("gsgd_jax", "dcasgd_jax", "lacim_jax")
PACKAGES = (*METHODS, "common", "benchmarks")
MAX_LINES = 350
MAX_PARAMETERS = 10
"""Of a function: every named one counts, with or without a default; not *args and **kwargs."""
MAX_CODE_LINES = 60
"""Of a function: from its `def` on, without docstring, comments and blank lines."""
NOTEBOOKS = {f"benchmarks/notebooks/{name}.py" for name in notebooks.NAMES}
"""May be longer: each is one text that is read from top to end, most of it prose and figures."""


def python_files(root: Path) -> list[Path]:
    """Every Python file of the checkout; not those of environments and caches."""
    tops = [p for p in root.iterdir() if p.name[0] != "." and p.name not in ("results", "dist")]
    nested = [path for top in tops if top.is_dir() for path in top.rglob("*.py")]
    return sorted([*nested, *(top for top in tops if top.suffix == ".py")])


def too_long(root: Path) -> list[str]:
    sizes = {p: len(p.read_text(encoding="utf-8").splitlines()) for p in python_files(root)}
    return [
        f"{p.relative_to(root)} has {n} lines"
        for p, n in sizes.items()
        if n > MAX_LINES and p.relative_to(root).as_posix() not in NOTEBOOKS
    ]


Function = ast.FunctionDef | ast.AsyncFunctionDef


def num_parameters(function: Function) -> int:
    """How many named parameters a function has."""
    arguments = function.args
    return sum(map(len, (arguments.posonlyargs, arguments.args, arguments.kwonlyargs)))


def num_code_lines(function: Function, lines: list[str]) -> int:
    """How many lines of code a function has, those of functions in it included."""
    first, last = function.lineno, function.end_lineno
    assert last is not None
    documentation = set()
    if ast.get_docstring(function) is not None:
        text = function.body[0]
        assert text.end_lineno is not None
        documentation = set(range(text.lineno, text.end_lineno + 1))
    return sum(
        number not in documentation and bool(line) and line[0] != "#"
        for number, line in enumerate((line.strip() for line in lines[first - 1 : last]), first)
    )


def function_faults(path: Path) -> Iterator[str]:
    """The functions of a file with too many parameters or lines of code, wherever in it."""
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Function):
            parameters, lines = num_parameters(node), num_code_lines(node, source.splitlines())
            if parameters > MAX_PARAMETERS:
                yield f"{node.name} has {parameters} parameters"
            if lines > MAX_CODE_LINES:
                yield f"{node.name} has {lines} lines of code"


def export_faults(init: Path) -> list[str]:
    """Where `__all__` and what the package takes from its own modules differ.

    A package that takes nothing from its modules needs no `__all__`.
    """
    offered, defined, exported = set(), set(), None
    for node in ast.parse(init.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            names = {alias.asname or alias.name for alias in node.names}
            defined |= names
            if node.level or (node.module or "").partition(".")[0] in PACKAGES:
                offered |= {name for name in names if not name.startswith("_")}
        elif isinstance(node, ast.Import):
            defined |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            defined.add(node.name)
            if not node.name.startswith("_"):
                offered.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {target.id for target in targets if isinstance(target, ast.Name)}
            defined |= names
            if "__all__" in names:
                assert node.value is not None
                exported = list(ast.literal_eval(node.value))
    if exported is None:
        return [f"offers {', '.join(sorted(offered))} without __all__"] if offered else []
    faults = [
        f"__all__ lists {name} twice" for name in {n for n in exported if exported.count(n) > 1}
    ]
    faults += [
        f"__all__ lists {name}, which is not there" for name in exported if name not in defined
    ]
    return faults + [f"{name} is missing in __all__" for name in sorted(offered - set(exported))]


def _is_overload(node: ast.AST) -> bool:
    """Whether it is one of several signatures, whose documentation stands at the function."""
    return any(ast.unparse(d) == "overload" for d in getattr(node, "decorator_list", []))


def undocumented(path: Path) -> Iterator[str]:
    """Module, public functions, classes and their public methods without a docstring."""

    def visit(node: ast.AST, prefix: str) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                continue
            if child.name.startswith("_") or _is_overload(child):
                continue
            if ast.get_docstring(child) is None:
                yield prefix + child.name
            if isinstance(child, ast.ClassDef):
                yield from visit(child, f"{prefix}{child.name}.")

    tree = ast.parse(path.read_text(encoding="utf-8"))
    if ast.get_docstring(tree) is None:
        yield "the module itself"
    yield from visit(tree, "")


def test_no_file_is_too_long():
    assert ROOT / "common" / "training" / "loop.py" in python_files(ROOT)
    assert too_long(ROOT) == []


def test_no_function_is_too_long_or_takes_too_much():
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    faults = {str(p.relative_to(ROOT)): list(function_faults(p)) for p in files}
    assert {name: found for name, found in faults.items() if found} == {}


def test_all_lists_exactly_what_a_package_offers():
    inits = [init for package in PACKAGES for init in (ROOT / package).rglob("__init__.py")]
    assert len(inits) >= len(PACKAGES)
    faults = {str(init.relative_to(ROOT)): export_faults(init) for init in inits}
    assert {name: found for name, found in faults.items() if found} == {}
    for method in METHODS:
        assert "__all__" in (ROOT / method / "__init__.py").read_text(encoding="utf-8")
        assert (ROOT / method / "py.typed").exists()


def test_everything_public_is_documented():
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    missing = {str(p.relative_to(ROOT)): list(undocumented(p)) for p in files}
    assert {name: found for name, found in missing.items() if found} == {}


def test_planted_faults_are_found(tmp_path):
    (tmp_path / "common").mkdir()
    long = tmp_path / "common" / "long.py"
    long.write_text("\n" * (MAX_LINES + 1))
    (tmp_path / "common" / "fits.py").write_text("\n" * MAX_LINES)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "theirs.py").write_text("\n" * 9999)
    assert too_long(tmp_path) == [f"common/long.py has {MAX_LINES + 1} lines"]

    full = [f"p{i}" for i in range(MAX_PARAMETERS)]
    body = ['    """Text,', "", '    of lines."""', "", "    # Why.", *["    pass"] * 59]
    functions = tmp_path / "functions.py"
    functions.write_text(f"def fits({', '.join(full)}, *args, **kwargs):\n" + "\n".join(body))
    assert list(function_faults(functions)) == []
    functions.write_text(f"def f({', '.join(full)}, *, last=0):\n" + "\n".join([*body, "    pass"]))
    assert list(function_faults(functions)) == ["f has 11 parameters", "f has 61 lines of code"]

    init = tmp_path / "__init__.py"
    init.write_text(
        "from common.a import one, two\nfrom os import path\n__all__ = ['one', 'one', 'x']\n"
    )
    assert sorted(export_faults(init)) == [
        "__all__ lists one twice",
        "__all__ lists x, which is not there",
        "two is missing in __all__",
    ]
    init.write_text("from .a import one as first, _hidden\n")
    assert export_faults(init) == ["offers first without __all__"]
    init.write_text('"""Only a docstring."""\n')
    assert export_faults(init) == []

    module = tmp_path / "module.py"
    module.write_text(
        "def public(): ...\ndef _private(): ...\nclass C:\n    '''Yes.'''\n    def m(self): ...\n"
    )
    assert list(undocumented(module)) == ["the module itself", "public", "C.m"]
