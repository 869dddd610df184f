"""G-SGD: optimisation of ReLU networks in the space of their path values.

A ReLU network computes the same function when a unit's incoming weights are multiplied by c > 0 and
its outgoing ones divided by c. Gradient descent does not: rescaled copies of one network train
differently. Here any optax transformation runs on coordinates that such rescalings cannot change::

    import optax
    from gsgd_jax import choose_skeleton, gsgd, in_path_space, mlp_gauge, skeleton_init

    gauge = mlp_gauge(params)                         # which rescalings there are; print(gauge)
    skeleton = choose_skeleton(gauge, params)         # which paths are the coordinates
    params = skeleton_init(params, skeleton)          # the papers' initialisation

    tx = gsgd(0.1, skeleton)                          # an ordinary optax transformation
    tx = in_path_space(optax.adam(1e-3), skeleton)    # and so is anything else in path space

    state = tx.init(params)
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)

Without the papers' reset, coordinates in which the network may keep its usual initialisation::

    skeleton = choose_skeleton(
        gauge, params, rule="largest", basis="cycles", tree_values="balanced"
    )

Where the group is no graph, as with gated units and attention behind a normalisation, a section
takes the skeleton's place::

    section = choose_section(group, params)

During training, `skeleton_margin` says when a skeleton has become a bad choice, and
`change_skeleton` goes over to another. What others have built on path space, and the peers to
compare it with, are in `gsgd_jax.family`.
"""

from gsgd_jax.balance import balance
from gsgd_jax.choice import choose_skeleton
from gsgd_jax.gauge import GROUND, Gauge, trivial_gauge
from gsgd_jax.initializers import skeleton_init
from gsgd_jax.mlp_gauge import mlp_gauge
from gsgd_jax.path_representation import (
    PathRepresentation,
    path_representation,
    sum_over_paths,
    unit_inputs,
)
from gsgd_jax.paths import StepInfo, allocate, inverse_chain_rule, path_values, weight_updates
from gsgd_jax.rechoice import change_skeleton, skeleton_margin
from gsgd_jax.reference_norms import in_path_space_with_reference_norms
from gsgd_jax.section import Section
from gsgd_jax.section_choice import choose_section
from gsgd_jax.skeleton import Skeleton
from gsgd_jax.structure import all_paths, basis_paths, describe_path, structure_matrix
from gsgd_jax.tracing import Approximation, FoundGauge, Pin, RescalingGroup, find_gauge
from gsgd_jax.transform import PathSpaceState, gsgd, in_path_space

__all__ = [
    "find_gauge",
    "FoundGauge",
    "RescalingGroup",
    "Pin",
    "Approximation",
    "mlp_gauge",
    "trivial_gauge",
    "Gauge",
    "GROUND",
    "choose_skeleton",
    "Skeleton",
    "choose_section",
    "Section",
    "gsgd",
    "in_path_space",
    "PathSpaceState",
    "in_path_space_with_reference_norms",
    "skeleton_margin",
    "change_skeleton",
    "path_values",
    "allocate",
    "inverse_chain_rule",
    "weight_updates",
    "StepInfo",
    "skeleton_init",
    "balance",
    "all_paths",
    "basis_paths",
    "describe_path",
    "structure_matrix",
    "path_representation",
    "PathRepresentation",
    "sum_over_paths",
    "unit_inputs",
]
