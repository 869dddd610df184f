"""How each primitive passes scales on: a rule per primitive, a module per kind of them."""

from gsgd_jax.tracing.rules.by_primitive import RULES

__all__ = ["RULES"]
