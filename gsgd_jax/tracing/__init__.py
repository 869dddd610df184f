"""Finding the rescaling group of any JAX model by tracing it.

gauge = find_gauge(apply_fn, params, example_input)
print(gauge)                                    # nodes, edges, and what was pinned where
gauge.verify(apply_fn, params, example_input)   # a random rescaling leaves the outputs alone
skeleton = choose_skeleton(gauge, params, basis="paths")       # where the group is a graph
"""

from gsgd_jax.tracing.find import find_gauge
from gsgd_jax.tracing.interpreter import Approximation, Pin
from gsgd_jax.tracing.result import FoundGauge, RescalingGroup
from gsgd_jax.tracing.sign_flips import find_signs

__all__ = ["find_gauge", "find_signs", "FoundGauge", "RescalingGroup", "Pin", "Approximation"]
