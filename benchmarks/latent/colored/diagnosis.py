"""What s and v hold of a coloured digit, and what its label owes to the digit and to the colour."""

from typing import Any

import jax
import numpy as np

from common.data.generated.colored_digits import ColoredDigits
from lacim_jax import Examples, LaCIM


def diagnosis(
    model: LaCIM, variables: Any, colored: ColoredDigits, examples: Examples
) -> dict[str, float]:
    """Linear probes of the posterior means, and the nats that the label keeps.

    The images, of the training domains, are others than the model was trained on; `examples` are
    the same as it sees them. `s_tells_color`, `s_tells_digit` and so of v are the accuracies of a
    linear classifier of the colour, or of whether the digit is 5 or more, fitted on one half of the
    images and scored on the other; `label_given_digit`, `label_given_color`, `label_given_both` the
    entropy of the label given the digit's class, the colour, or both, in nats.
    """
    encode = jax.jit(lambda *inputs: model.apply(*inputs, method="encode"))
    posterior: Any = encode(variables, examples.images, examples.domains)
    latents = model.split(np.asarray(posterior.mean))
    labels, colors = np.asarray(colored.labels), np.asarray(colored.colors)
    classes = (np.asarray(colored.digits) >= 5).astype(labels.dtype)
    probes = {
        f"{part}_tells_{name}": probe(np.asarray(values), target)
        for part, values in latents._asdict().items()
        for name, target in (("color", colors), ("digit", classes))
    }
    return probes | {
        "label_given_digit": conditional_entropy(labels, classes),
        "label_given_color": conditional_entropy(labels, colors),
        "label_given_both": conditional_entropy(labels, 2 * classes + colors),
    }


def probe(values: np.ndarray, target: np.ndarray) -> float:
    """The accuracy on one half of the examples of least squares, of 0 or 1, on the other."""
    inputs = np.column_stack([values, np.ones(len(values))])
    fitted, scored = slice(0, None, 2), slice(1, None, 2)
    weights = np.linalg.lstsq(inputs[fitted], 2.0 * target[fitted] - 1, rcond=None)[0]
    return float(np.mean((inputs[scored] @ weights > 0) == target[scored]))


def conditional_entropy(labels: np.ndarray, condition: np.ndarray) -> float:
    """H(label | condition), in nats, of the frequencies; both integers from 0, [n]."""
    counts = np.zeros((condition.max() + 1, labels.max() + 1))
    np.add.at(counts, (condition, labels), 1)
    joint = counts / counts.sum()
    alone = np.broadcast_to(joint.sum(axis=1, keepdims=True), joint.shape)
    seen = joint > 0
    return float(-(joint[seen] * np.log(joint[seen] / alone[seen])).sum())
