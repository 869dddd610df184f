"""All rules, by the names of the primitives that they are for."""

from gsgd_jax.tracing.interpreter import Rule
from gsgd_jax.tracing.rules import contractions, control, elementwise, layout

RULES: dict[str, Rule] = elementwise.RULES | layout.RULES | contractions.RULES | control.RULES
