"""Whether probabilities are calibrated, and whether a score separates one set from another."""

import numpy as np
from numpy.typing import ArrayLike


def expected_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, *, bins: int = 15
) -> float:
    r"""How far confidence and accuracy are apart, $\sum_b \frac{n_b}{n} |acc_b - conf_b|$.

    Predictions are sorted into bins of equal width by their confidence, the probability of the
    class predicted.

    Args:
        probabilities: [n, classes], rows that sum to 1; n at least 1.
        labels: integers, [n].
        bins: how many, at least 1.

    Returns:
        From 0, where accuracy equals confidence in every bin, to 1.

    Raises:
        ValueError: if shapes do not fit, a row is no distribution, or there is no bin.

    Example:
        >>> sure, half = [1.0, 0.0], [0.5, 0.5]
        >>> expected_calibration_error([sure, sure, half, half], [0, 1, 0, 1])  # sure: half right
        0.25

    References:
        Guo et al., *On calibration of modern neural networks*, ICML 2017
        (https://arxiv.org/abs/1706.04599), equation 3.
    """
    values, answers = np.asarray(probabilities, np.float64), np.asarray(labels)
    if values.ndim != 2 or answers.shape != values.shape[:1] or not answers.size:
        raise ValueError(
            "probabilities must be [n, classes] and labels [n], n at least 1, got "
            f"{values.shape} and {answers.shape}."
        )
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}.")
    if not (np.all(values >= 0) and np.allclose(values.sum(1), 1, atol=1e-3)):
        raise ValueError("each row of probabilities must be at least 0 and sum to 1; normalise.")
    confidence, right = values.max(1), values.argmax(1) == answers
    # Bin b holds confidences above b / bins, up to (b + 1) / bins.
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    # n_b (acc_b - conf_b), summed over the bin's predictions.
    gaps = np.bincount(index, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / answers.size)


def detection_auroc(inside: ArrayLike, outside: ArrayLike) -> float:
    """The probability that an outsider has the higher score, ties counting half.

    Args:
        inside: scores of examples from the training distribution, [n]; finite.
        outside: scores of examples from elsewhere, [m]; larger where the score detects them.

    Returns:
        The area under the receiver operating characteristic curve: 1 if the score separates the two
        sets, 0.5 if it carries no information.

    Raises:
        ValueError: if either is empty, or a score is not finite.

    Example:
        >>> detection_auroc([0.0, 1.0], [1.0, 2.0])
        0.875
    """
    groups = [np.asarray(scores, np.float64).ravel() for scores in (inside, outside)]
    if not all(group.size and np.isfinite(group).all() for group in groups):
        raise ValueError(
            "inside and outside must each hold at least one score, all of them finite, got "
            f"{groups[0].size} and {groups[1].size} scores."
        )
    from sklearn.metrics import roc_auc_score  # seconds' import, needed from here on only

    truth = np.repeat([0, 1], [group.size for group in groups])
    return float(roc_auc_score(truth, np.concatenate(groups)))
