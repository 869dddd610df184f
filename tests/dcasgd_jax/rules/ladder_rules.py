"""Every rung of the ladder with one history of arrivals, for tests of what wraps around them."""

import jax
import jax.numpy as jnp
import numpy as np

from dcasgd_jax.rules.compensation import delay_compensation
from dcasgd_jax.rules.curvature import curvature_compensation, outer_product
from dcasgd_jax.rules.gauss_newton import empirical_fisher, gauss_newton
from dcasgd_jax.rules.hessian import hessian, hessian_diagonal
from dcasgd_jax.rules.low_rank import low_rank_compensation
from dcasgd_jax.rules.rotated import rotated_compensation

LENGTH, WORKERS = 10, 2


def outputs_of(params, batch):
    return jnp.tanh(batch @ params["kernel"]).sum(axis=-1) + batch[:, :3] @ params["bias"]


def square(outputs, batch):
    return 0.5 * jnp.mean((outputs - jnp.sin(batch[:, 0])) ** 2)


def losses_of(params, batch):
    return 0.5 * (outputs_of(params, batch) - jnp.sin(batch[:, 0])) ** 2


gradient_of = jax.grad(lambda params, batch: square(outputs_of(params, batch), batch))

RULES = {
    "delay_compensation": lambda: delay_compensation(
        2.0, mean_square_decay=0.9, num_workers=WORKERS
    ),
    "hessian": lambda: curvature_compensation(hessian(gradient_of)),
    "gauss_newton": lambda: curvature_compensation(gauss_newton(outputs_of, square)),
    "empirical_fisher": lambda: curvature_compensation(empirical_fisher(losses_of)),
    "outer_product": lambda: curvature_compensation(outer_product, strength=0.5),
    "hessian_diagonal": lambda: curvature_compensation(
        hessian_diagonal(gradient_of, jax.random.key(0))
    ),
    "low_rank_compensation": lambda: low_rank_compensation(2, confidence=0.5),
    "rotated_compensation": lambda: rotated_compensation(refresh=2),
}


def _history():
    """((gradients, params), extra arguments), every leaf [LENGTH, ...]."""
    rng = np.random.default_rng(0)

    def tree():
        return {
            "kernel": jnp.asarray(0.5 * rng.normal(size=(LENGTH, 4, 2)), jnp.float32),
            "bias": jnp.asarray(0.5 * rng.normal(size=(LENGTH, 3)), jnp.float32),
        }

    params, stale = tree(), tree()
    batch = jnp.asarray(rng.normal(size=(LENGTH, 6, 4)), jnp.float32)
    extra = {
        "stale_params": stale,
        "batch": batch,
        "worker": jnp.asarray(rng.integers(0, WORKERS, LENGTH), jnp.int32),
        "staleness": jnp.zeros(LENGTH, jnp.int32),
    }
    return (jax.vmap(gradient_of)(stale, batch), params), extra


ARRIVALS = _history()
PARAMS = jax.tree.map(lambda x: x[0], ARRIVALS[0][1])


def run_through(tx, arrivals):
    """Compensated gradients [LENGTH, ...] and the last state, by a scan around a cond."""

    def step(state, arrived):
        (g, w), extra = arrived
        u, state = jax.lax.cond(
            jnp.all(extra["staleness"] == 0),
            lambda: tx.update(g, state, w, **extra),
            lambda: (g, state),
        )
        return state, u

    state, outputs = jax.lax.scan(step, tx.init(PARAMS), arrivals)
    return outputs, state
