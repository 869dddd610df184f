"""Run by on_devices, in its process of eight devices: the ladder under pmap and shard_map."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.dcasgd_jax.rules.ladder_rules import ARRIVALS, RULES, run_through

KINDS = ("delay_compensation", "hessian", "outer_product", "low_rank_compensation",
         "rotated_compensation")  # fmt: skip
"""A rule of every kind: by leaf, by derivative, by inner product over leaves, and learning."""


def compare():
    """Raises unless eight histories, one a device, give what they give on one."""
    copies = jax.tree.map(
        lambda x: jnp.stack([jnp.roll(x, seed, axis=0) for seed in range(8)]), ARRIVALS
    )
    rules = {name: RULES[name]() for name in KINDS}

    def outputs(arrivals):
        return {name: run_through(tx, arrivals)[0] for name, tx in rules.items()}

    mesh = jax.make_mesh((8,), ("seeds",), axis_types=(jax.sharding.AxisType.Auto,))
    each = jax.sharding.PartitionSpec("seeds")
    rows = jax.vmap(outputs)
    shared_out = jax.shard_map(rows, mesh=mesh, in_specs=(each,), out_specs=each, check_vma=False)
    alone = jax.jit(rows)(copies)
    for found in (jax.pmap(outputs)(copies), jax.jit(shared_out)(copies)):
        for name in KINDS:
            for a, b in zip(
                jax.tree.leaves(found[name]), jax.tree.leaves(alone[name]), strict=True
            ):
                np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5, err_msg=name)
