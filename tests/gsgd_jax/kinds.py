"""A small network in each kind of coordinates of path space."""

import pytest

from gsgd_jax import choose_section, choose_skeleton, find_gauge
from tests.gsgd_jax.tracing.models import MODELS

KINDS = pytest.mark.parametrize("kind", ["balanced", "paths", "cycles", "section"])


def model_of(kind):
    """A gated network for sections, which a skeleton has no graph for; else a perceptron."""
    return MODELS["gated" if kind == "section" else "mlp"]


def of_kind(kind):
    """Parameters, their group and coordinates for it."""
    model = model_of(kind)
    params, x = model.draw(0)
    coordinates = group = find_gauge(model.apply, params, x)
    if kind == "section":
        coordinates = choose_section(group, params)
    elif kind != "balanced":
        coordinates = choose_skeleton(group, params, basis=kind, rule="largest")
    return params, group, coordinates
