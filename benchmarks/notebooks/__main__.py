"""`python -m benchmarks.notebooks`: runs the notebooks and writes their .ipynb anew."""

import argparse
import sys
from collections.abc import Sequence

from benchmarks.notebooks import NAMES
from benchmarks.notebooks.pairing import FOLDER, NotebookError, drift, render


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status: 0, or 1 where a notebook is at fault.

    Args:
        argv: arguments without the program's name; by default the process's own.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.notebooks",
        description="Runs each NAME.py from top to end and writes NAME.ipynb with what it shows.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all")
    parser.add_argument(
        "--check",
        action="store_true",
        help="run and write nothing; fail where the cells of an .ipynb are not its .py's",
    )
    arguments = parser.parse_args(argv)
    names = arguments.names or NAMES
    if unknown := sorted(set(names).difference(NAMES)):
        parser.error(f"no notebook is called {', '.join(unknown)}; known: {', '.join(NAMES)}.")
    try:
        for name in names:
            source = FOLDER / f"{name}.py"
            if arguments.check:
                if found := drift(source):
                    raise NotebookError(
                        f"{found} Run python -m benchmarks.notebooks {name} after changing its .py."
                    )
            else:
                print(render(source))
    except NotebookError as error:
        print(f"python -m benchmarks.notebooks: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
