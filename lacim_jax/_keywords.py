"""Misspelt keyword arguments, answered with the names that there are."""

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

Target = TypeVar("Target", bound=Callable[..., Any])


def names_keywords(target: Target) -> Target:
    """Makes a function or a dataclass refuse unknown keyword arguments by naming the known ones.

    Args:
        target: its own signature stays what editors and `inspect` see.

    Raises:
        TypeError: from a call with a name that is none, with the nearest that is one.

    Example:
        >>> @names_keywords
        ... def squared(*, number):
        ...     return number**2
        >>> squared(numbers=3)
        Traceback (most recent call last):
            ...
        TypeError: squared takes number, got 'numbers'; did you mean 'number'?
    """
    called = target.__init__ if isinstance(target, type) else target
    known = [name for name in inspect.signature(called).parameters if name != "self"]

    @functools.wraps(called)
    def checked(*args: Any, **kwargs: Any) -> Any:
        for name in kwargs:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                advice = f"did you mean {near[0]!r}?" if near else "leave it out."
                raise TypeError(
                    f"{target.__name__} takes {', '.join(known)}, got {name!r}; {advice}"
                )
        return called(*args, **kwargs)

    if isinstance(target, type):
        target.__init__ = checked
        return cast(Target, target)
    return cast(Target, checked)  # of the same signature
