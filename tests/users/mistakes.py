"""What an editor underlines: each line that is marked, and no other."""

import jax
import jax.numpy as jnp
import optax

from dcasgd_jax import Engine, delay_compensation, gamma_times, simulate
from gsgd_jax import choose_skeleton, in_path_space, mlp_gauge
from lacim_jax import Search


def mistakes():
    """Never called."""
    params = {"w": jnp.ones((2, 3)), "v": jnp.ones((3, 1))}
    gauge = mlp_gauge(params)
    choose_skeleton(gauge, params, basis="path")  # wrong
    choose_skeleton(gauge, params, basis="paths", rule="larges")  # wrong
    choose_skeleton(gauge, params, rule="largest")  # wrong
    in_path_space(optax.sgd(0.1), gauge, max_growth="adviced")  # wrong
    in_path_space(0.1, gauge)  # wrong
    in_path_space(gauge, optax.sgd(0.1))  # wrong
    delay_compensation("0.1")  # wrong
    cluster = gamma_times(2, 5, seed=0)
    gamma_times(2, 5.5, seed=0)  # wrong
    fall = jax.grad(jnp.sum)
    simulate(fall, jnp.ones(3), optax.sgd(0.1), cluster, jnp.ones(5), engine="slot")  # wrong
    Engine("wavefronts")  # wrong
    Engine("slots", loop="drive")  # wrong
    Search(loop="automatic")  # wrong
