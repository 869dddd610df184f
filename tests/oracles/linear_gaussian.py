"""A latent causal model in which everything is Gaussian and linear, in float64.

z = (s, v) ~ N(mu_d, diag(sd_d^2)) in domain d, x = A z + N(0, sx^2 I), y = B s + N(0, sy^2 I).
A has orthogonal columns, so that p(z | x, d) is a diagonal Gaussian and an encoder can be exact.
"""

from typing import NamedTuple

import numpy as np


class LinearGaussian(NamedTuple):
    A: np.ndarray  # [dx, s_dim + v_dim], orthogonal columns
    B: np.ndarray  # [dy, s_dim]
    sx: float
    sy: float
    mean: np.ndarray  # [domains, s_dim + v_dim]
    sd: np.ndarray  # [domains, s_dim + v_dim]


def instance(rng, *, s_dim=2, v_dim=2, dx=6, dy=2, domains=2):
    dim = s_dim + v_dim
    orthogonal = np.linalg.qr(rng.normal(size=(dx, dim)))[0]
    return LinearGaussian(
        A=orthogonal * rng.uniform(0.5, 2.0, dim),
        B=rng.normal(size=(dy, s_dim)),
        sx=0.7,
        sy=0.5,
        mean=rng.normal(size=(domains, dim)),
        sd=rng.uniform(0.5, 1.5, (domains, dim)),
    )


def draw(model, domain, rng, n):
    """x [n, dx] and y [n, dy] of one domain."""
    z = model.mean[domain] + model.sd[domain] * rng.normal(size=(n, model.mean.shape[1]))
    x = z @ model.A.T + model.sx * rng.normal(size=(n, len(model.A)))
    s = z[:, : model.B.shape[1]]
    return x, s @ model.B.T + model.sy * rng.normal(size=(n, len(model.B)))


def posterior(model, domain):
    """p(z|x,d) = N(gain x + offset, diag(variance)): gain [dim, dx], offset, variance [dim]."""
    precision = np.diag(model.sd[domain] ** -2.0) + model.A.T @ model.A / model.sx**2
    covariance = np.linalg.inv(precision)
    off_diagonal = covariance - np.diag(np.diag(covariance))
    assert np.abs(off_diagonal).max() < 1e-12
    offset = covariance @ (model.mean[domain] / model.sd[domain] ** 2)
    return covariance @ model.A.T / model.sx**2, offset, np.diag(covariance)


def log_normal(value, mean, covariance):
    """The log-density of a Gaussian with a full covariance."""
    difference = value - mean
    quadratic = difference @ np.linalg.solve(covariance, difference)
    return -0.5 * (quadratic + np.linalg.slogdet(2 * np.pi * covariance)[1])


def log_evidence(model, domain, x, y):
    """log p(x, y | d), by marginalising z of the joint Gaussian."""
    dim, s_dim = model.mean.shape[1], model.B.shape[1]
    to_y = np.hstack([model.B, np.zeros((len(model.B), dim - s_dim))])
    G = np.vstack([model.A, to_y])
    noise = np.diag([model.sx**2] * len(model.A) + [model.sy**2] * len(model.B))
    covariance = G @ np.diag(model.sd[domain] ** 2) @ G.T + noise
    return log_normal(np.concatenate([x, y]), G @ model.mean[domain], covariance)
