"""Penalties on ERM's network, each against NumPy, and all on batches that lack a domain."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from lacim_jax import ERM, MLP, Examples, MLPEncoder, erm_loss
from lacim_jax.baselines import coral_loss, group_dro_loss, irm_loss, mmd_loss, vrex_loss
from lacim_jax.baselines.domain_risks import membership
from tests.compiled import compiled_quickly

KEY = jax.random.key(0)
MODEL = ERM(MLPEncoder((6,)), MLP((3,)), s_dim=4)
PENALTIES = {"irm": irm_loss, "vrex": vrex_loss, "coral": coral_loss, "mmd": mmd_loss}
START = jnp.zeros([], jnp.int32)


def examples(domains=(0, 1, 2, 0, 1, 2, 2, 0, 2, 1)):
    n = len(domains)
    return Examples(
        jax.random.normal(KEY, (n, 5)), jnp.arange(n) % 3, jnp.asarray(domains, jnp.int32)
    )


PARAMS = compiled_quickly(MODEL.init)(KEY, examples().images)["params"]


@compiled_quickly
def outputs(images):
    variables = {"params": PARAMS}
    represented = MODEL.apply(variables, images, method="represent")
    return represented, MODEL.apply(variables, images)


def seen(data):
    """The network's outputs in float64: representation, logits, losses, slopes in the scale."""
    represented, logits = (np.asarray(x, np.float64) for x in outputs(data.images))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    one_hot = np.eye(3)[np.asarray(data.labels)]
    losses = -np.log((probabilities * one_hot).sum(1))
    return represented, logits, losses, (logits * (probabilities - one_hot)).sum(1)


def by_domain(values, data, num_domains=3):
    return [values[np.asarray(data.domains) == d] for d in range(num_domains)]


def coral(values):
    """Of two domains at a time, by NumPy's own covariance."""
    pairs = list(itertools.combinations(values, 2))
    means = [((x.mean(0) - y.mean(0)) ** 2).mean() for x, y in pairs]
    covariances = [
        ((np.cov(x, rowvar=False) - np.cov(y, rowvar=False)) ** 2).mean()
        for x, y in pairs
        if min(len(x), len(y)) > 1
    ]
    return np.mean(means) + np.mean(covariances)


def mmd(values, gammas=(1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)):
    """Pair by pair of examples."""

    def kernel(x, y):
        squares = [[((a - b) ** 2).sum() for b in y] for a in x]
        return sum(np.exp(-gamma * np.asarray(squares)) for gamma in gammas).mean()

    pairs = itertools.combinations(values, 2)
    return np.mean([kernel(x, x) + kernel(y, y) - 2 * kernel(x, y) for x, y in pairs])


def wanted(name, data, num_domains=3):
    represented, _, losses, slopes = seen(data)
    risks = [own.mean() for own in by_domain(losses, data, num_domains)]
    if name == "irm":
        # The mean product of two different examples' slopes, pair by pair.
        pairs = [
            np.mean([a * b for a, b in itertools.permutations(own, 2)])
            for own in by_domain(slopes, data, num_domains)
        ]
        return np.mean(risks), np.mean(pairs)
    if name == "vrex":
        return np.mean(risks), np.var(risks)
    return np.mean(risks), {"coral": coral, "mmd": mmd}[name](by_domain(represented, data))


@pytest.mark.parametrize("name", PENALTIES)
def test_the_penalty_is_numpys(name):
    data = examples()
    risk, penalty = wanted(name, data)
    loss = PENALTIES[name](MODEL, num_domains=3, weight=0.7)
    value, (step, terms) = compiled_quickly(loss)(PARAMS, START, data, KEY)
    np.testing.assert_allclose(terms["risk"], risk, rtol=1e-5)
    np.testing.assert_allclose(terms["penalty"], penalty, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(value, risk + 0.7 * penalty, rtol=1e-5)
    assert step == 1


def test_coral_compares_no_covariance_of_a_single_example():
    data = examples((0, 1, 2, 0, 2, 2, 0, 2))
    loss = compiled_quickly(coral_loss(MODEL, num_domains=3, weight=1.0))
    _, (_, terms) = loss(PARAMS, START, data, KEY)
    np.testing.assert_allclose(terms["penalty"], wanted("coral", data)[1], rtol=1e-4)
    # Without any pair of covariances, what is left are the means.
    data = examples((0, 0, 1, 2))
    values = by_domain(seen(data)[0], data)
    pairs = itertools.combinations([own.mean(0) for own in values], 2)
    due = np.mean([((x - y) ** 2).mean() for x, y in pairs])
    _, (_, terms) = loss(PARAMS, START, data, KEY)
    np.testing.assert_allclose(terms["penalty"], due, rtol=1e-4)


def test_vrex_may_leave_out_what_is_chance():
    data = examples((0, 1, 1, 0, 1, 3, 1, 0, 1, 1))  # no example of domain 2, one of domain 3
    losses = by_domain(seen(data)[2], data, 4)
    chance = sum(own.var(ddof=1) / len(own) for own in losses if len(own) > 1) * (3 - 1) / 3**2
    biased, unbiased = (
        compiled_quickly(vrex_loss(MODEL, num_domains=4, weight=1.0, unbiased=u))(
            PARAMS, START, data, KEY
        )[1][1]["penalty"]
        for u in (False, True)
    )
    np.testing.assert_allclose(biased - unbiased, chance, rtol=1e-4)


@pytest.mark.parametrize("name", PENALTIES)
def test_the_weight_may_be_a_schedule(name):
    data = examples()
    loss = PENALTIES[name](MODEL, num_domains=3, weight=lambda step: jnp.where(step < 2, 0.0, 5.0))
    compiled = compiled_quickly(loss)
    early, (_, terms) = compiled(PARAMS, START, data, KEY)
    late, _ = compiled(PARAMS, START + 2, data, KEY)
    np.testing.assert_allclose(early, terms["risk"], rtol=1e-6)
    np.testing.assert_allclose(late, terms["risk"] + 5 * terms["penalty"], rtol=1e-5)


@pytest.mark.parametrize("name", PENALTIES)
def test_domains_that_are_alike_cost_nothing_but_the_risk(name):
    """Two copies of one domain: every penalty but IRM's, which asks for optimality, is zero."""
    one = examples((0,) * 6)
    data = jax.tree.map(lambda x: jnp.concatenate([x, x]), one)
    data = data._replace(domains=jnp.repeat(jnp.arange(2), 6))
    loss = compiled_quickly(PENALTIES[name](MODEL, num_domains=2, weight=1.0))
    value, (_, terms) = loss(PARAMS, START, data, KEY)
    plain, _ = compiled_quickly(erm_loss(MODEL))(PARAMS, (), one, KEY)
    np.testing.assert_allclose(terms["risk"], plain, rtol=1e-5)
    if name == "irm":
        np.testing.assert_allclose(terms["penalty"], wanted("irm", data, 2)[1], rtol=1e-4)
    else:
        np.testing.assert_allclose(value, plain, rtol=1e-5)


def test_the_penalty_of_irm_knows_no_order_and_is_without_bias():
    """Constant logits, whose slopes in the scale depend on the label alone."""
    model = ERM(MLPEncoder((2,)), MLP((2,)), s_dim=1)
    loss = compiled_quickly(irm_loss(model, num_domains=1, weight=1.0))
    images = jnp.ones((8, 3))
    params = compiled_quickly(model.init)(KEY, images)["params"]
    params = jax.tree.map(jnp.zeros_like, params)
    params["classifier"]["Dense_0"]["bias"] = jnp.asarray([1.0, -1.0])
    share = 1 / (1 + np.exp(-2.0))
    slopes = np.array([2 * share - 2, 2 * share])  # of the labels 0 and 1

    def penalty(labels):
        data = Examples(images, jnp.asarray(labels), jnp.zeros(8, jnp.int32))
        return float(loss(params, START, data, KEY)[1][1]["penalty"])

    orders = ([0, 1, 0, 1, 0, 1, 0, 1], [0, 0, 0, 0, 1, 1, 1, 1], [0, 1, 1, 0, 1, 0, 0, 1])
    found = [penalty(labels) for labels in orders]
    np.testing.assert_allclose(found, found[0], rtol=1e-6)
    own = slopes[orders[0]]
    due = np.mean([a * b for a, b in itertools.permutations(own, 2)])
    np.testing.assert_allclose(found[0], due, rtol=1e-5)
    # Over all batches of labels with chance 1/2: the square of the mean slope, and of rate 0.6.
    for rate in (0.5, 0.6):
        counts = np.arange(9)
        chance = scipy.stats.binom(8, rate).pmf(counts)
        each = [penalty((np.arange(8) < ones).astype(int)) for ones in counts]
        mean = (1 - rate) * slopes[0] + rate * slopes[1]
        np.testing.assert_allclose(chance @ each, mean**2, rtol=1e-4)


@pytest.mark.parametrize("name", [*PENALTIES, "group_dro"])
@pytest.mark.parametrize("domains", [(0, 0, 2, 2), (1, 1, 1, 1), (0, 1, 2, 2)])
def test_a_domain_without_examples_or_with_one_leaves_all_finite(name, domains):
    data = examples(domains)
    if name == "group_dro":
        loss, state = group_dro_loss(MODEL, num_domains=3, rate=0.1), jnp.zeros(3)
    else:
        loss, state = PENALTIES[name](MODEL, num_domains=3, weight=1.0), START
    gradient = compiled_quickly(jax.grad(loss, has_aux=True))
    grads, (_, terms) = gradient(PARAMS, state, data, KEY)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((grads, terms)))
    present = sorted(set(domains))
    _, _, losses, _ = seen(data)
    risks = by_domain(losses, data)
    np.testing.assert_allclose(
        terms["risk"], np.mean([risks[d].mean() for d in present]), rtol=1e-5
    )


@pytest.mark.parametrize("name", [*PENALTIES, "group_dro"])
def test_domains_out_of_range_are_seen(name):
    """They would belong to no domain, and be left out of the risk and of the penalty."""
    data = examples((0, 1, 2, 3, 0, 1, 3))
    if name == "group_dro":
        loss, state = group_dro_loss(MODEL, num_domains=3, rate=0.1), jnp.zeros(3)
    else:
        loss, state = PENALTIES[name](MODEL, num_domains=3, weight=1.0), START
    with pytest.raises(ValueError, match=r"num_domains - 1 = 2, got 0 to 3; .*coded"):
        loss(PARAMS, state, data, KEY)
    assert np.isnan(compiled_quickly(loss)(PARAMS, state, data, KEY)[0])
    assert np.isnan(membership(jnp.array([1, 1, -1]), 2)[0][2]).all()


def test_group_dro_follows_the_exponentiated_gradient():
    data, rate = examples(), 0.5
    _, _, losses, _ = seen(data)
    risks = np.asarray([own.mean() for own in by_domain(losses, data)])
    loss = group_dro_loss(MODEL, num_domains=3, rate=rate)
    compiled, state, q = compiled_quickly(loss), jnp.zeros(3), np.ones(3) / 3
    for _ in range(3):
        value, (state, terms) = compiled(PARAMS, state, data, KEY)
        q = q * np.exp(rate * risks)
        q /= q.sum()
        np.testing.assert_allclose(value, (q * risks).sum(), rtol=1e-5)
        np.testing.assert_allclose(jnp.exp(state), q, rtol=1e-5)
        np.testing.assert_allclose(terms["worst"], risks.max(), rtol=1e-5)
    # The weights are no path for the gradient.
    gradient = compiled_quickly(jax.grad(lambda p: loss(p, jnp.zeros(3), data, KEY)[0]))(PARAMS)
    q = np.exp(rate * risks) / np.exp(rate * risks).sum()

    def weighted(params):
        logits = MODEL.apply({"params": params}, data.images)
        each = -jnp.take_along_axis(jax.nn.log_softmax(logits), data.labels[:, None], 1)[:, 0]
        own = jax.nn.one_hot(data.domains, 3)
        return ((each @ own) / own.sum(0) * jnp.asarray(q, jnp.float32)).sum()

    other = compiled_quickly(jax.grad(weighted))(PARAMS)
    for found, due in zip(jax.tree.leaves(gradient), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(found, due, rtol=1e-4, atol=1e-6)


def test_group_dro_takes_an_absent_domain_for_one_of_risk_zero():
    """Its weight falls as others rise, and has no part in the loss."""
    data, state, q = examples((0, 0, 0, 0)), jnp.log(jnp.asarray([0.2, 0.5, 0.3])), [0.2, 0.5, 0.3]
    risk = seen(data)[2].mean()
    loss = compiled_quickly(group_dro_loss(MODEL, num_domains=3, rate=1.0))
    for _ in range(3):
        value, (state, _) = loss(PARAMS, state, data, KEY)
        q = np.asarray(q) * [np.exp(risk), 1, 1]
        q /= q.sum()
        np.testing.assert_allclose(jnp.exp(state), q, rtol=1e-5)
        np.testing.assert_allclose(value, q[0] * risk, rtol=1e-5)
    np.testing.assert_allclose(q[1] / q[2], 0.5 / 0.3)


@pytest.mark.parametrize("name", PENALTIES)
def test_arguments_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match="num_domains must be at least 1, got 0"):
        PENALTIES[name](MODEL, num_domains=0, weight=1.0)
    with pytest.raises(ValueError, match=r"weight must be at least 0, .* got -1"):
        PENALTIES[name](MODEL, num_domains=2, weight=-1.0)
    for rate in (-0.1, np.float32(-0.1), jnp.float32(-0.1)):
        with pytest.raises(ValueError, match="rate must be at least 0"):
            group_dro_loss(MODEL, num_domains=2, rate=rate)
