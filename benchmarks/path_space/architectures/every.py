"""All rows of the table."""

from benchmarks.path_space.architectures.functions import FUNCTIONS
from benchmarks.path_space.architectures.generative import GENERATIVE
from benchmarks.path_space.architectures.graphs import GRAPHS
from benchmarks.path_space.architectures.language import LANGUAGE
from benchmarks.path_space.architectures.mobile import MOBILE
from benchmarks.path_space.architectures.patches import PATCHES
from benchmarks.path_space.architectures.plain import PLAIN
from benchmarks.path_space.architectures.recurrent import RECURRENT
from benchmarks.path_space.architectures.residual import RESIDUAL

ARCHITECTURES = {
    row.name: row
    for row in [
        *PLAIN, *RESIDUAL, *MOBILE, *PATCHES, *LANGUAGE, *RECURRENT, *GRAPHS, *GENERATIVE,
        *FUNCTIONS,
    ]
}  # fmt: skip
"""Every row by its name."""
