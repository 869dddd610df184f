"""Libraries that are only compared with, and may be missing."""

import importlib.util


def installed(library: str) -> bool:
    """Whether a library can be imported; it is not.

    Args:
        library: its name in an import.
    """
    return importlib.util.find_spec(library) is not None
