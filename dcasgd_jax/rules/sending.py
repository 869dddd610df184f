"""Rules whose workers are sent something other than the server's weights.

Most rules act when a gradient arrives, and workers pull the weights as they are. Some peers of
delay compensation act when weights are pulled instead: they send where the weights will be. Such a
rule is a pair, the transformation and a pure function of what the server holds::

    rule = dana_zero(0.1, num_workers=8, momentum=0.9)
    updates, state = rule.tx.update(gradients, state, params, worker=m)   # on a push
    snapshot = rule.send(params, state)                                   # on a pull

The snapshot is what the next gradient is taken at, and so the `stale_params` of its arrival.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax


class SendingRule(NamedTuple):
    """A server's rule and what it sends to workers that pull."""

    tx: optax.GradientTransformationExtraArgs
    send: Callable[[optax.Params, optax.OptState], optax.Params]
    """(the server's weights, its optimiser state) -> the weights to take a gradient at, of the
    same structure and dtypes. The state may be that of a chain or wrapper around `tx`."""


def state_of(opt_state: optax.OptState, kind: type) -> Any:
    """The one state of a kind within the state of a chain or wrapper; refuses none or several.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> tx = optax.chain(optax.clip(1.0), optax.trace(0.9))
        >>> state_of(tx.init(jnp.zeros(2)), optax.TraceState)
        TraceState(trace=Array([0., 0.], dtype=float32))
    """
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, kind))
    states = [node for node in nodes if isinstance(node, kind)]
    if len(states) != 1:
        raise ValueError(
            f"`send` needs exactly one {kind.__name__} in the optimiser's state, and there are "
            f"{len(states)}; use the rule once, and pass on the state that its `tx` returned."
        )
    return states[0]
