"""Cards are known by the words of their names, and an unknown one is said to be."""

import pytest

from benchmarks.accelerator.cards import ASSUMED, CARDS, NAMES, card_of, planned_for


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("NVIDIA B200", "B200"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L40", "L40"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("TPU v6 lite", "TPU v6 lite"),
        ("TPU v5 lite", "TPU v5 lite"),
        ("TPU v5e", "TPU v5e"),
        ("TPU v5", "TPU v5"),
        ("TPU v5p", "TPU v5p"),
        ("TPU v4", "TPU v4"),
    ],
)
def test_a_card_is_known_by_its_name(kind, name):
    card = card_of(kind)
    assert card is not None
    assert card.name == name
    assert planned_for(kind) == (card, "")


def test_names_of_one_card_have_one_peak():
    peaks = {card.name: card.peak(half=True) for card in CARDS}
    assert peaks["TPU v5"] == peaks["TPU v5p"] > peaks["TPU v5 lite"] == peaks["TPU v5e"]
    assert peaks["L40"] != peaks["L4"]
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize(
    "kind",
    ["cpu", "NVIDIA GB200", "NVIDIA A10G", "TPU v4 lite", "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
     "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 4090 D"],
)  # fmt: skip
def test_of_an_unknown_card_the_assumed_peak_is_said(kind):
    assert card_of(kind) is None
    card, note = planned_for(kind)
    assert card.name == ASSUMED
    assert f"The peak of {kind} is not known" in note
    assert f"{card.half / 1e12:.0f} TFLOP/s in bfloat16" in note


def test_float32_has_its_own_peak():
    """TF32 is half as fast as bfloat16; TPUs multiply float32 in one pass of bfloat16."""
    for card in CARDS:
        ratio = card.peak(half=True) / card.peak(half=False)
        assert ratio == (1 if card.name.startswith(("TPU", "V100")) else 2)
