"""The type checker that annotations are checked by: beartype, asked once for each signature."""

from collections.abc import Callable

import beartype

_checked: dict[tuple, Callable] = {}


def beartype_once(function: Callable) -> Callable:
    """`beartype.beartype` of a function that does nothing but have a signature.

    Such a function is all that jaxtyping lets check: it makes one anew of every definition that is
    executed, those inside functions at every call. Where name, code and annotations are those of an
    earlier one, its checks are the same, and most of the time beartype takes is to write them.
    """
    key = (
        function.__module__,
        function.__qualname__,
        function.__code__,
        len(function.__defaults__ or ()),
        frozenset(function.__kwdefaults__ or ()),
        tuple(function.__annotations__.items()),
    )
    try:
        if key not in _checked:
            _checked[key] = beartype.beartype(function)
    except TypeError:  # an annotation that has no hash
        return beartype.beartype(function)
    return _checked[key]
