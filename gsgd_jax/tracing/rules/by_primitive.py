"""All rules, by the names of the primitives that they are for."""

from gsgd_jax.tracing.calls import CALLS
from gsgd_jax.tracing.interpreter import Rule
from gsgd_jax.tracing.rules import contractions, control, elementwise, layout
from gsgd_jax.tracing.rules.stacked import by_layers

_HAND_ON = CALLS | {"scan", "cond"}
"""Primitives that hand stacks of layers to a jaxpr within."""
_ALL = elementwise.RULES | layout.RULES | contractions.RULES | control.RULES
RULES: dict[str, Rule] = {
    name: rule if name in _HAND_ON else by_layers(name, rule) for name, rule in _ALL.items()
}
