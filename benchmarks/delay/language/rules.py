"""Optimisers and what stands against stale gradients: from names to a server's rule."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon

from dcasgd_jax import SendingRule, delay_compensation, low_rank_compensation, rotated_compensation
from dcasgd_jax.peers import error_feedback, weight_prediction

MUON, ADAMW = OPTIMISERS = ("Muon", "AdamW")

NOTHING, PREDICTION, SHORT, BOTH, CONSTANT, ADAPTIVE, FEEDBACK, LOW_RANK, ROTATED = RULES = (
    "none",
    "prediction",
    "shorter momentum",
    "prediction, shorter momentum",
    "DC-ASGD-c",
    "DC-ASGD-a",
    "error feedback",
    "low rank",
    "rotated",
)
"""In the order of tables. Those with a shorter momentum are ours: asynchrony acts as momentum does
(Mitliagkas et al., 2016), so the optimiser's own is made shorter, alone and with prediction along
its step."""

COPIES = {
    NOTHING: 0.0, CONSTANT: 0.0, ADAPTIVE: 1.0, ROTATED: 7.0, LOW_RANK: 6.0, PREDICTION: 1.0,
    SHORT: 0.0, BOTH: 1.0,
}  # fmt: skip
"""Copies of the weights that a rule keeps on the server beside its optimiser's; error feedback
keeps the delay's. Snapshots, which every asynchronous run has, are not counted."""

DECAY = 0.1
"""Weight decay of both optimisers."""


def matrices_of_blocks(params: Any) -> Any:
    """What Muon orthogonalises: the matrices between embedding and logits; None for the others."""

    def numbers(path: Any, leaf: Any) -> MuonDimensionNumbers | None:
        part = path[0].key
        within = part.startswith(("attention_", "feed_forward_"))
        return MuonDimensionNumbers() if within and jnp.ndim(leaf) == 2 else None

    return jax.tree_util.tree_map_with_path(numbers, params)


def optimiser(
    name: str, rate: optax.ScalarOrSchedule, *, momentum: float | None = None
) -> optax.GradientTransformation:
    """One of `OPTIMISERS`; `momentum` replaces its first decay, 0.9 of AdamW and 0.95 of Muon.

    Muon's updates are scaled to the root mean square that AdamW's have, 0.2, so that both take
    steps of one grid; AdamW takes what is no matrix of a block.
    """
    if name == ADAMW:
        first = 0.9 if momentum is None else momentum
        return optax.adamw(rate, b1=first, b2=0.95, weight_decay=DECAY)
    return muon(
        rate, beta=0.95 if momentum is None else momentum, weight_decay=DECAY, adam_b2=0.95,
        adam_weight_decay=DECAY, consistent_rms=0.2,
        muon_weight_dimension_numbers=matrices_of_blocks,
    )  # fmt: skip


def server_rule(
    name: str, base: str, rate: optax.ScalarOrSchedule, *, delays: Any, strength: Any,
    watched: optax.GradientTransformation, short_momentum: dict[str, float],
) -> optax.GradientTransformation | SendingRule:  # fmt: skip
    """One of `RULES` around an optimiser.

    Args:
        name: of the rule.
        base: of the optimiser.
        rate: its step.
        delays: the staleness of each part: a tree prefix of the parameters. Numbers may be traced,
            but for error feedback.
        strength: λ of DC-ASGD; the others learn or need none.
        watched: a link for the end of the chain, which looks at the server's weights.
        short_momentum: the optimisers' first decay in the rows of the shorter one.
    """
    compensators = {
        CONSTANT: lambda: delay_compensation(strength),
        ADAPTIVE: lambda: delay_compensation(strength, mean_square_decay=0.95),
        ROTATED: rotated_compensation,
        LOW_RANK: lambda: low_rank_compensation(4),
    }
    momentum = short_momentum[base] if name in (SHORT, BOTH) else None
    inner = optax.chain(
        compensators.get(name, optax.identity)(), optimiser(base, rate, momentum=momentum), watched
    )
    if name in (PREDICTION, BOTH):
        return weight_prediction(inner, delays)
    if name == FEEDBACK:
        return error_feedback(inner, delays)
    return inner
