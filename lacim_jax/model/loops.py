"""Which programs XLA runs many times slower inside a compiled loop."""

from typing import Any

import jax


def slow_in_loops(jaxpr: Any) -> bool:
    """Whether steps had better be called one by one from Python than from a compiled loop.

    On CPU convolutions are: outside of loops they run in a library on all cores, inside on one, by
    loops of their own (https://github.com/jax-ml/jax/issues/12868).

    Args:
        jaxpr: of a step, as `jax.make_jaxpr` gives it.
    """
    return jax.default_backend() == "cpu" and "conv_general_dilated" in str(jaxpr)
