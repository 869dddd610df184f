"""The pictures of the documentation: `python -m benchmarks.docs.pictures` draws them anew."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from benchmarks.docs import causal_pictures, delay_pictures, path_pictures

FOLDER = Path(__file__).with_name("pages") / "pictures"
PICTURES: dict[str, Callable[[Path], None]] = {
    **path_pictures.PICTURES,
    **delay_pictures.PICTURES,
    **causal_pictures.PICTURES,
}
"""By file name, what draws it."""


def main(names: Sequence[str] = ()) -> None:
    """Draws pictures into the pages' folder.

    Args:
        names: of files; none for all.
    """
    for name in names or PICTURES:
        PICTURES[name](FOLDER / name)
        few = Image.open(FOLDER / name).convert("RGB").quantize(64, dither=Image.Dither.NONE)
        few.save(FOLDER / name, optimize=True)  # a third of the size
        print(FOLDER / name)


if __name__ == "__main__":
    main(sys.argv[1:])
