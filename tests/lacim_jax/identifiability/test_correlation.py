"""MCC: right on known maps, no credit for chance, domains or the examples it was fitted on."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from lacim_jax.identifiability import (
    LatentPairs,
    block_correlation,
    identification,
    mean_correlation,
)
from lacim_jax.identifiability.correlation import _assign

RNG = np.random.default_rng(7)
DOMAINS = np.repeat(np.arange(3), 200)


def latents(dim, spread=1.0):
    means = np.random.default_rng(1).normal(size=(3, dim))
    return RNG.normal(size=(600, dim)) + spread * means[DOMAINS]


def halves(estimate_of, dim=3, spread=1.0):
    truth = [latents(dim, spread) for _ in range(2)]
    return [LatentPairs(z, estimate_of(z), DOMAINS) for z in truth]


@settings(derandomize=True, deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000))
def test_the_assignment_of_optax_is_that_of_scipy(seed):
    costs = -np.abs(np.random.default_rng(seed).normal(size=(3, 3))).astype(np.float32)
    mine = _assign(costs)
    theirs = linear_sum_assignment(costs)
    np.testing.assert_allclose(costs[tuple(mine)].sum(), costs[theirs].sum(), rtol=1e-6)
    assert sorted(np.asarray(mine[0]).tolist()) == [0, 1, 2]


def test_scales_signs_and_order_do_not_matter():
    for order in itertools.permutations(range(3)):
        signs = np.array([2.0, -0.1, 5.0])
        fit, score = halves(lambda z, order=order, k=signs: 4 + k * z[:, list(order)])
        for within in (False, True):
            found = mean_correlation(fit, score, within=within)
            np.testing.assert_allclose(found.by_dim, 1, rtol=1e-9)
            assert [order[j] for j in found.matching] == [0, 1, 2]


def test_it_is_pearson_by_numpy_with_the_best_matching_of_all():
    noise = np.array([0.5, 1.0, 2.0])
    fit, score = halves(lambda z: z[:, ::-1] + noise * RNG.normal(size=z.shape))
    within, pooled = [], []
    for part in (fit, score):
        own = [np.corrcoef(part.truth.T, part.estimate.T)[:3, 3:]]
        each = [
            np.corrcoef(part.truth[d == DOMAINS].T, part.estimate[d == DOMAINS].T)[:3, 3:]
            for d in range(3)
        ]
        pooled.append(own[0])
        within.append(np.mean(each, axis=0))
    for name, values in ((False, pooled), (True, within)):
        found = mean_correlation(fit, score, within=name)
        orders = list(itertools.permutations(range(3)))
        best = max(orders, key=lambda o: np.abs(values[0][range(3), list(o)]).sum())
        assert found.matching.tolist() == list(best)
        due = values[1][range(3), list(best)] * np.sign(values[0][range(3), list(best)])
        np.testing.assert_allclose(found.by_dim, due, rtol=1e-9)
        np.testing.assert_allclose(found.mcc, due.mean(), rtol=1e-12)


def test_chance_gets_no_credit():
    """On the examples fitted on, ten estimates of noise look like something; on others not."""
    scores, optimistic = [], []
    for _ in range(12):
        z = RNG.normal(size=(2, 60, 2))
        noise = RNG.normal(size=(2, 60, 10))
        fit, score = (LatentPairs(z[i], noise[i], np.zeros(60, int)) for i in range(2))
        scores.append(mean_correlation(fit, score).mcc)
        optimistic.append(mean_correlation(fit, fit).mcc)
    assert abs(np.mean(scores)) < 0.08
    assert np.mean(optimistic) > 0.15


def test_the_domain_alone_scores_nothing_within_domains():
    means = np.random.default_rng(1).normal(size=(3, 2))
    fit, score = halves(lambda z: 5.0 * means[DOMAINS], dim=2, spread=5.0)
    assert mean_correlation(fit, score).mcc > 0.8
    assert mean_correlation(fit, score, within=True).mcc == 0
    assert np.all(block_correlation(fit, score, within=True) == 0)


def test_a_curved_map_of_each_latent_is_straightened():
    fit, score = halves(lambda z: np.cbrt(z[:, [1, 0]]), dim=2, spread=0.3)
    assert mean_correlation(fit, score, within=True).mcc < 0.96
    assert mean_correlation(fit, score, within=True, degree=3).mcc > 0.995
    assert mean_correlation(fit, score, degree=3).mcc > 0.995


def test_a_turned_block_is_recovered_by_a_map_of_the_block_alone():
    turn = np.array([[1.0, 1.0], [-1.0, 1.0]])
    fit, score = halves(lambda z: z @ turn, dim=2, spread=0.5)
    assert mean_correlation(fit, score, within=True).mcc < 0.8
    for degree in (1, 2):
        recovered = block_correlation(fit, score, within=True, degree=degree)
        np.testing.assert_allclose(recovered, 1, rtol={1: 1e-9, 2: 5e-3}[degree])

    # z0 is quadratic in both estimates: no line finds it, a quadratic does.
    def curved(z):
        return np.stack([z[:, 0] - z[:, 1] ** 2, z[:, 1]], axis=1)

    fit, score = halves(curved, dim=2, spread=0.5)
    assert block_correlation(fit, score, degree=1)[0] < 0.8
    np.testing.assert_allclose(block_correlation(fit, score, degree=2), 1, rtol=2e-2)


def test_a_collapsed_estimate_scores_nothing():
    fit, score = halves(lambda z: np.full_like(z, 0.3), dim=2)
    for within in (False, True):
        assert mean_correlation(fit, score, within=within, degree=2).mcc == 0


def test_controls_stand_beside_the_scores():
    """s found, v not; v half made of s."""

    def part():
        s = latents(2, spread=0.5)
        v = s + RNG.normal(size=s.shape)
        noise = RNG.normal(size=s.shape)
        return {"s": LatentPairs(s, -s, DOMAINS), "v": LatentPairs(v, noise, DOMAINS)}

    report = identification(part(), part())
    np.testing.assert_allclose(report.s, 1, atol=2e-3)  # curves end where the fit does
    assert abs(report.v.within) < 0.2
    np.testing.assert_allclose(report.s_as_v.within, np.sqrt(0.5), atol=0.1)
    assert report.domain_mean_as_s.within == 0
    assert 0.1 < report.domain_mean_as_s.pooled < 0.7
    lines = str(report).splitlines()
    assert [line[:20].strip() for line in lines[1:]] == [
        "s", "v", "domain mean as s", "domain mean as v", "s scored as v",
    ]  # fmt: skip
    assert f"{report.s_as_v.within:.3f}" in lines[-1]


def test_what_cannot_be_scored_is_refused():
    z, d = RNG.normal(size=(20, 2)), np.arange(20) % 2
    good = LatentPairs(z, z, d)
    cases = [
        (good._replace(estimate=z[:, :1]), {}, "other numbers of columns"),
        (good._replace(estimate=z[:-1]), {}, r"\[n, dim\]"),
        (good._replace(domains=d[:-1]), {}, "one domain per example"),
        (good._replace(estimate=z * np.nan), {}, "must be finite"),
        (good._replace(domains=d + 1), {}, "same domains"),
        (good, {"degree": 0}, "at least 1"),
        (LatentPairs(z[:4], z[:4], d[:4]), {"within": True}, "of each domain"),
    ]
    for pairs, options, message in cases:
        with pytest.raises(ValueError, match=message):
            mean_correlation(good, pairs, **options)
    one = good._replace(estimate=z[:, :1])
    with pytest.raises(ValueError, match="an estimate for each true latent, got 1 for 2"):
        mean_correlation(one, one)
    with pytest.raises(ValueError, match="must be 1 or 2"):
        block_correlation(good, good, degree=3)
