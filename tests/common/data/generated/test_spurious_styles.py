"""Two styles are mixed so that the label goes with one in training and with the other in test."""

import jax
import numpy as np
import pytest

from common.data import from_domains
from common.data.generated.spurious_styles import AGAINST, WITH, spurious_styles

KEY = jax.random.key(0)
CLASSES = ("dog", "elephant", "guitar", "house", "person")
STYLES = ("art_painting", "cartoon", "photo", "sketch")


@pytest.fixture(scope="module")
def pacs():
    """Each image's single pixel is its number."""
    generator = np.random.default_rng(0)
    domains = generator.integers(0, 4, 900)
    return from_domains(
        np.arange(900, dtype=np.float32).reshape(900, 1),
        generator.integers(0, 5, 900),
        domains,
        class_names=CLASSES,
        domain_names=STYLES,
    )


def test_shares_are_as_given_and_turn_about_between_the_two_domains(pacs):
    mixed = spurious_styles(KEY, pacs, strength=0.8)
    assert mixed.domain_names == ("photo", WITH, AGAINST)
    rows = mixed.images[:, 0].astype(int)
    assert len(set(rows)) == len(rows)
    np.testing.assert_array_equal(mixed.labels, pacs.labels[rows] != CLASSES.index("elephant"))
    styles = pacs.domains[rows]
    for label in (0, 1):
        size = min(
            np.sum((pacs.domains == style) & ((pacs.labels != 1) == label)) for style in (0, 1)
        )
        for domain, share in ((1, 0.8), (2, 0.2)):
            own = styles[(mixed.labels == label) & (mixed.domains == domain)]
            assert abs(len(own) - size) <= 1
            assert set(own) <= {0, 1}
            due = share if label else 1 - share
            assert abs(np.mean(own == 0) - due) <= 2 / size


def test_other_domains_are_kept_whole_or_left_out(pacs):
    mixed = spurious_styles(KEY, pacs)
    kept = mixed.images[mixed.domains == 0, 0].astype(int)
    np.testing.assert_array_equal(kept, np.flatnonzero(pacs.domains == STYLES.index("photo")))
    assert spurious_styles(KEY, pacs, kept=()).domain_names == (WITH, AGAINST)
    again = spurious_styles(jax.random.key(1), pacs)
    assert set(again.images[again.domains == 1, 0]) != set(mixed.images[mixed.domains == 1, 0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"styles": ("art_painting", "etching")}, "no domain 'etching'"),
        ({"positive": ("cat",)}, "no class 'cat'"),
        ({"strength": 1.5}, r"between 0 and 1, got 1\.5"),
        ({"positive": CLASSES}, "need images of both labels"),
    ],
)
def test_bad_input_gives_one_error(pacs, changes, message):
    with pytest.raises(ValueError, match=message):
        spurious_styles(KEY, pacs, **changes)
