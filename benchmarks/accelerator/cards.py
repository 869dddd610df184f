"""What accelerators can do at most, by what jax calls them."""

import re
from typing import NamedTuple


class Card(NamedTuple):
    """Operations a second of dense products, as the maker states them: of one jax device."""

    name: str
    """The words that the device's name has in it."""
    half: float
    """In bfloat16."""
    single: float
    """In float32, as XLA multiplies it by default: TF32 on NVIDIA's cards from Ampere on, one pass
    of bfloat16 on TPUs."""

    def peak(self, half: bool) -> float:
        """That of products in bfloat16, or in float32."""
        return self.half if half else self.single


def _nvidia(name: str, half: float) -> Card:
    return Card(name, half, half / 2)


def _tpu(name: str, half: float) -> Card:
    return Card(name, half, half)


CARDS = (
    _nvidia("B200", 2250e12),
    _nvidia("H200 NVL", 835.5e12),
    _nvidia("H200", 989e12),
    _nvidia("H100 NVL", 835.5e12),
    _nvidia("H100 PCIe", 756.5e12),
    _nvidia("H100", 989e12),
    _nvidia("A100", 312e12),
    _nvidia("A10", 125e12),
    _nvidia("L40S", 362e12),
    _nvidia("L40", 181e12),
    _nvidia("L4", 121e12),
    _nvidia("RTX 4090", 165e12),
    # It has no bfloat16, which XLA computes in float32 there, and no TF32.
    Card("V100", 15.7e12, 15.7e12),
    _tpu("TPU v6e", 918e12),
    _tpu("TPU v6 lite", 918e12),
    _tpu("TPU v5e", 197e12),
    _tpu("TPU v5 lite", 197e12),
    _tpu("TPU v5p", 459e12),
    _tpu("TPU v5", 459e12),
    _tpu("TPU v4", 275e12),
)
"""Of names that fit the same device the more special one comes first. jax calls a v5p "TPU v5", and
a v5e "TPU v5 lite"."""

NAMES = tuple(card.name for card in CARDS)

ASSUMED = "L4"
"""The card that a plan is made for where the device is none of these: a small one, so that the plan
is rather too short than too long."""

_OTHERS = {"lite", "D", "Ti", "SUPER", "Laptop", "MIG"}
"""Words that make another card of one, or a part."""


def card_of(kind: str) -> Card | None:
    """The card of a device's name, word by word; None where it is not known.

    Example:
        >>> [card and card.name for card in map(card_of, ("NVIDIA H100 80GB HBM3", "TPU v5 lite"))]
        ['H100', 'TPU v5 lite']
        >>> card_of("NVIDIA A100-SXM4-40GB MIG 1g.5gb") is None
        True
    """
    words = set(re.split(r"[\s-]+", kind))
    for card in CARDS:
        own = set(card.name.split())
        if own <= words and not (words & _OTHERS) - own:
            return card
    return None


def planned_for(kind: str) -> tuple[Card, str]:
    """The card that a plan is made for, and what is to be said of it, nothing where it is known."""
    card = card_of(kind)
    if card is not None:
        return card, ""
    assumed = next(each for each in CARDS if each.name == ASSUMED)
    return assumed, (
        f"The peak of {kind} is not known: the plan assumes that of {ASSUMED}, "
        f"{assumed.half / 1e12:.0f} TFLOP/s in bfloat16 and {assumed.single / 1e12:.0f} in float32."
    )
