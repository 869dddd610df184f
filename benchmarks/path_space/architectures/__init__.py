"""Published networks at small width, each rebuilt from its description, as its authors write it.

A row has a name, a source, the form of a Python loop, and, where it is a stack of equal layers or
steps in time, that of `jax.lax.scan`.
"""

from benchmarks.path_space.architectures.architecture import Architecture, Form, drawn
from benchmarks.path_space.architectures.every import ARCHITECTURES

__all__ = ["ARCHITECTURES", "Architecture", "Form", "drawn"]
