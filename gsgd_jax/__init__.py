"""G-SGD: optimisation of ReLU networks in the space of their path values.

A ReLU network computes the same function when a unit's incoming weights are multiplied by c > 0 and
its outgoing ones divided by c. Gradient descent does not: rescaled copies of one network train
differently. Here any optax transformation runs on coordinates that such rescalings cannot change::

    import optax
    from gsgd_jax import find_gauge, in_path_space

    gauge = find_gauge(network, params, inputs)      # which rescalings there are; print(gauge)
    tx = in_path_space(optax.adam(1e-3), gauge)      # an ordinary optax transformation

    state = tx.init(params)
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)

Path values are then the weights of the *balanced* copy of the network, in which every hidden unit's
incoming and outgoing weights have equal norms. The papers' coordinates, values of directed paths,
are asked for by name::

    skeleton = choose_skeleton(gauge, params, basis="paths")
    params = skeleton_init(params, skeleton)          # the papers' initialisation
    tx = gsgd(0.1, skeleton)                          # gradient descent on them

`choose_section` makes coordinates in which entries of one's own choice are fixed. During training,
`skeleton_margin` says when a skeleton has become a bad choice, and `change_skeleton` goes over to
other coordinates. What others have built on path space, and the peers to compare it with, are in
`gsgd_jax.family`.
"""

from gsgd_jax.balance import balance
from gsgd_jax.canonical import canonical, distance
from gsgd_jax.change import change_skeleton, skeleton_margin
from gsgd_jax.coordinates import (
    Balanced,
    Chart,
    Coordinates,
    Frame,
    Section,
    Skeleton,
    StepInfo,
    allocate,
    choose_section,
    choose_skeleton,
    dead_nodes,
    inverse_chain_rule,
    path_values,
    weight_updates,
)
from gsgd_jax.family.reference_norms import in_path_space_with_reference_norms
from gsgd_jax.gauge import GROUND, Gauge, trivial_gauge
from gsgd_jax.initializers import skeleton_init
from gsgd_jax.line_search import value_and_grad_from_state
from gsgd_jax.mlp_gauge import mlp_gauge
from gsgd_jax.representation import (
    PathRepresentation,
    path_representation,
    sum_over_paths,
    unit_inputs,
)
from gsgd_jax.structure import all_paths, basis_paths, describe_path, structure_matrix
from gsgd_jax.tracing import (
    Approximation,
    FoundGauge,
    Pin,
    RescalingGroup,
    find_gauge,
    find_signs,
)
from gsgd_jax.transform import PathSpaceState, gsgd, in_path_space

__version__ = "0.1.0"

__all__ = [
    "find_gauge",
    "find_signs",
    "FoundGauge",
    "RescalingGroup",
    "Pin",
    "Approximation",
    "mlp_gauge",
    "trivial_gauge",
    "Gauge",
    "GROUND",
    "gsgd",
    "in_path_space",
    "PathSpaceState",
    "value_and_grad_from_state",
    "Balanced",
    "Frame",
    "choose_skeleton",
    "Skeleton",
    "dead_nodes",
    "choose_section",
    "Section",
    "Coordinates",
    "Chart",
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
    "canonical",
    "distance",
    "all_paths",
    "basis_paths",
    "describe_path",
    "structure_matrix",
    "path_representation",
    "PathRepresentation",
    "sum_over_paths",
    "unit_inputs",
]
