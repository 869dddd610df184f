"""Multinomial logistic regression by maximum likelihood, in float64 on the host."""

from typing import NamedTuple

import numpy as np

_RIDGE = 1e-6
"""Curvature added to every coefficient, an example: keeps separable labels' coefficients finite."""


class LogisticFit(NamedTuple):
    """A fitted regression; the first class is the reference, of score 0."""

    log_likelihood: float
    probabilities: np.ndarray  # shape=[n, classes]: p(y|f)
    weights: np.ndarray  # shape=[width, classes]: W, its first column 0


def logistic_regression(
    design: np.ndarray, targets: np.ndarray, confusion: np.ndarray | None = None
) -> LogisticFit:
    r"""Fits p(y|f) = softmax(f W) to labels, or to labels that are confused at known rates.

    What is maximised is $\sum_{ib} T_{ib} \log q_b(f_i)$ with $q(f) = C^\top p(\cdot|f)$, C the
    confusion: Fisher's scoring, which without confusion is Newton's method, halving steps that
    overshoot.

    Args:
        design: f, [n, width].
        targets: T, [n, classes]: shares of the labels seen, each row's sum 1.
        confusion: C, [classes, classes]: p(seen label b | label a) at [a, b]; None for none.

    Returns:
        The fit, the probabilities those of the label that is not confused.
    """
    examples, width = design.shape
    classes = targets.shape[1]
    rates = np.eye(classes) if confusion is None else confusion
    weights = np.zeros((width, classes - 1))
    ridge = _RIDGE * examples

    def value(weights: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        scores = np.column_stack([np.zeros(examples), design @ weights])
        own = np.exp(scores - scores.max(axis=1, keepdims=True))
        own /= own.sum(axis=1, keepdims=True)
        seen = np.maximum(own @ rates, np.finfo(np.float64).tiny)
        return float((targets * np.log(seen)).sum()), own, seen

    def penalised(weights: np.ndarray) -> float:
        return value(weights)[0] - ridge * float((weights**2).sum()) / 2

    for _ in range(200):
        _, own, seen = value(weights)
        # dq_b / dscore_a = p_a (C_ab - q_b), the reference's score being fixed.
        slopes = own[:, 1:, None] * (rates[1:] - seen[:, None, :])
        slope = np.einsum("iab,ib->ia", slopes, targets / seen)
        gradient = (design.T @ slope - ridge * weights).T.ravel()
        # Fisher's information of the scores: sum_b (dq_b / dscore_a)(dq_b / dscore_c) / q_b.
        information = np.einsum("iab,icb->iac", slopes, slopes / seen[:, None, :])
        blocks = [
            [design.T @ (design * information[:, a, c, None]) for c in range(classes - 1)]
            for a in range(classes - 1)
        ]
        curvature = np.block(blocks) + ridge * np.eye(width * (classes - 1))
        step = np.linalg.solve(curvature, gradient).reshape(classes - 1, width).T
        before = penalised(weights)
        halvings = (step / 2**i for i in range(30))
        step = next((s for s in halvings if penalised(weights + s) >= before), 0 * step)
        weights = weights + step
        if penalised(weights) - before < 1e-9 * examples:
            break
    likelihood, own, _ = value(weights)
    return LogisticFit(likelihood, own, np.column_stack([np.zeros(width), weights]))


def standardised(features: np.ndarray) -> np.ndarray:
    """Features of mean 0 and deviation 1, [n, k]; constants, which say nothing, are left out.

    Args:
        features: [n, any number].

    Returns:
        [n, k].
    """
    centred = features - features.mean(axis=0)
    spread = centred.std(axis=0)
    varying = spread > 1e-12 * max(spread.max(initial=0), 1)
    return centred[:, varying] / spread[varying]
