"""Coordinates of path space: the balanced ones, skeletons and sections, behind one protocol.

`in_path_space` asks coordinates for a chart at every step, and the chart for path values, slopes
and changes of weights (`Coordinates` and `Chart`). The arithmetic of each kind is in one file:
`balanced`, `skeleton_chart`, `section`.
"""

from gsgd_jax.coordinates.balanced import Balanced
from gsgd_jax.coordinates.frame import Frame
from gsgd_jax.coordinates.paths import (
    allocate,
    inverse_chain_rule,
    path_values,
    weight_updates,
)
from gsgd_jax.coordinates.protocol import Chart, Coordinates, StepInfo
from gsgd_jax.coordinates.section import Section
from gsgd_jax.coordinates.section_choice import choose_section
from gsgd_jax.coordinates.skeleton import Skeleton
from gsgd_jax.coordinates.skeleton_choice import choose_skeleton, dead_nodes

__all__ = [
    "Coordinates",
    "Chart",
    "Balanced",
    "Frame",
    "choose_skeleton",
    "Skeleton",
    "dead_nodes",
    "choose_section",
    "Section",
    "path_values",
    "allocate",
    "inverse_chain_rule",
    "weight_updates",
    "StepInfo",
]
