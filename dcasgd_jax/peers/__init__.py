"""Published ways to live with stale gradients, to be compared with compensating for them.

Each is an optax transformation, or wraps one, for the server of `simulate` or a real one. By when
they act:

- scale what arrives late: `staleness_aware`, `delay_adaptive`, `gap_aware`;
- keep momentum apart, or look ahead along it: `dana_slim`, `delayed_nesterov`,
  `delay_corrected_nesterov`;
- make an update good when what it lacked arrives: `error_feedback`;
- choose or gather gradients: `rennala`, `ringmaster`, `fedbuff`, `weighted_aggregation`;
- send other weights than the server's (`SendingRule`): `dana_zero`, `weight_prediction`.

Most read `staleness` or `worker`, which the server hands to `update` by keyword; an argument that
is missing is named.
"""

from dcasgd_jax.peers.dana import DanaSlimState, DanaZeroState, dana_slim, dana_zero
from dcasgd_jax.peers.delay_adaptive import delay_adaptive
from dcasgd_jax.peers.delay_corrected_nesterov import (
    DelayCorrectedNesterovState,
    delay_corrected_nesterov,
)
from dcasgd_jax.peers.delayed_nesterov import DelayedNesterovState, delayed_nesterov
from dcasgd_jax.peers.error_feedback import ErrorFeedbackState, error_feedback
from dcasgd_jax.peers.fedbuff import FedBuffState, fedbuff
from dcasgd_jax.peers.gap_aware import GapAwareState, gap_aware
from dcasgd_jax.peers.rennala import RennalaState, rennala
from dcasgd_jax.peers.ringmaster import RingmasterState, ringmaster
from dcasgd_jax.peers.staleness_aware import staleness_aware
from dcasgd_jax.peers.weight_prediction import WeightPredictionState, weight_prediction
from dcasgd_jax.peers.weighted_aggregation import (
    WeightedAggregationState,
    weighted_aggregation,
)

__all__ = [
    "staleness_aware",
    "delay_adaptive",
    "gap_aware",
    "GapAwareState",
    "dana_slim",
    "DanaSlimState",
    "dana_zero",
    "DanaZeroState",
    "delayed_nesterov",
    "DelayedNesterovState",
    "delay_corrected_nesterov",
    "DelayCorrectedNesterovState",
    "rennala",
    "RennalaState",
    "ringmaster",
    "RingmasterState",
    "fedbuff",
    "FedBuffState",
    "weighted_aggregation",
    "WeightedAggregationState",
    "error_feedback",
    "ErrorFeedbackState",
    "weight_prediction",
    "WeightPredictionState",
]
