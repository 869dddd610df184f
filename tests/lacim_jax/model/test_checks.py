"""What comes in is refused with one clear error, or let through."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lacim_jax import MLP, Examples, LaCIM, MLPDecoder, MLPEncoder, check_examples
from lacim_jax.model.checks import check_weight

IMAGES = np.linspace(0, 1, 6 * 4, dtype=np.float32).reshape(6, 2, 2)
GOOD = Examples(IMAGES, np.asarray([0, 1, 2, 0, 1, 2]), np.asarray([0, 0, 0, 1, 1, 1]))


def model(num_domains=2):
    return LaCIM(
        MLPEncoder((4,)), MLPDecoder((2, 2), (4,)), MLP((3,)), num_domains=num_domains, s_dim=2,
        v_dim=1,
    )  # fmt: skip


VARIABLES = jax.jit(model().init)(jax.random.key(0), IMAGES, GOOD.domains)


def test_a_good_training_set_passes():
    check_examples(model(), VARIABLES, GOOD)
    check_examples(model(), VARIABLES, jax.tree.map(jnp.asarray, GOOD))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"domains": np.zeros(6, int)}, r"the model's 2 domains .* domains \[0\] only"),
        ({"domains": np.ones(6, int)}, r"domains \[1\] only; .* num_domains=1 \(Pool-LaCIM\)"),
        ({"domains": GOOD.domains + 1}, "num_domains - 1 = 1, got 1 to 2; .*predict"),
        ({"domains": GOOD.domains - 1}, "num_domains - 1 = 1, got -1 to 0"),
        ({"domains": GOOD.domains.astype(float)}, r"integers of shape \[batch\], got float64\[6\]"),
        ({"labels": GOOD.labels + 1}, "labels must lie between 0 and 2, .* got 1 to 3"),
        ({"labels": GOOD.labels[:5]}, "one entry per example, got 6, 5 and 6"),
        ({"images": 255 * IMAGES}, "between 0 and 1, got 0 to 255; divide stored pixels by 255"),
        ({"images": IMAGES - 0.5}, "got -0.5 to 0.5; .* do not standardise"),
        ({"images": IMAGES[:, :1]}, r"\[batch, 2, 2\], .* got float32\[6, 1, 2\]"),
    ],
)  # fmt: skip
def test_a_bad_training_set_is_one_clear_error(changes, message):
    with pytest.raises(ValueError, match=message):
        check_examples(model(), VARIABLES, GOOD._replace(**changes))


@pytest.mark.parametrize("kind", [float, np.float32, np.asarray, jnp.float32])
def test_a_negative_weight_is_refused_whatever_its_kind(kind):
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="beta must be at least 0, a finite number"):
            check_weight("beta", kind(bad))
    for good in (0.0, 2.0):
        check_weight("beta", kind(good))


def test_a_weight_whose_value_is_unknown_passes():
    check_weight("beta", lambda step: -step)
    jax.jit(lambda weight: check_weight("beta", weight))(-1.0)
    check_weight("beta", np.asarray([0.5, 2.0]))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("value", [None, "1", np.str_("1")])
def test_what_is_no_number_is_no_weight(value):
    with pytest.raises(ValueError, match="beta must be at least 0, a finite number"):
        check_weight("beta", value)


def test_no_example_is_refused():
    with pytest.raises(ValueError, match="at least one example"):
        check_examples(model(), VARIABLES, jax.tree.map(lambda leaf: leaf[:0], GOOD))


def test_three_domains_of_which_one_is_empty():
    wide = model(num_domains=3)
    variables = jax.jit(wide.init)(jax.random.key(0), IMAGES, GOOD.domains)
    gap = GOOD._replace(domains=2 * GOOD.domains)
    with pytest.raises(ValueError, match=r"model's 3 domains .* domains \[0, 2\] only"):
        check_examples(wide, variables, gap)


def test_one_domain_is_pool_lacim():
    pooled = model(num_domains=1)
    variables = jax.jit(pooled.init)(jax.random.key(0), IMAGES, 0 * GOOD.domains)
    check_examples(pooled, variables, GOOD._replace(domains=0 * GOOD.domains))
    with pytest.raises(ValueError, match="num_domains - 1 = 0, got 0 to 1"):
        check_examples(pooled, variables, GOOD)
