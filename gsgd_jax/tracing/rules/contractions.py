"""How matrix products and convolutions pass scales on: summed terms must scale alike."""

from collections.abc import Sequence
from typing import Any

from gsgd_jax.tracing.algebra.scales import Value
from gsgd_jax.tracing.interpreter import Rule, Trace


def _dot_general(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    left, right = values
    return [_contracted(trace, left, right, eqn.params["dimension_numbers"])]


def _ragged_dot_general(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    """Rows of the left side meet one of several kernels, as tokens do their expert's.

    Which one is a matter of data, so all of them have the same scales.
    """
    left, right, _ = values
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    (left_sum, right_sum), (left_batch, right_batch) = numbers.dot_dimension_numbers
    (kernels,) = numbers.rhs_group_dimensions or (None,)
    if kernels is None or {*numbers.lhs_ragged_dimensions} & {*left_sum, *left_batch}:
        return trace.give_up(eqn, values)

    def below(axes: Sequence[int]) -> list[int]:
        return [a - (a > kernels) for a in axes]

    right = trace.scales.reduce(right, (kernels,))
    axes = (left_sum, below(right_sum)), (left_batch, below(right_batch))
    return [_contracted(trace, left, right, axes)]


def _contracted(trace: Trace, left: Value, right: Value, numbers: Any) -> Value:
    """A product over (batch, contracted, free of left, free of right) axes, then a sum."""
    (left_sum, right_sum), (left_batch, right_batch) = numbers
    left_free = [a for a in range(len(left.shape)) if a not in (*left_sum, *left_batch)]
    right_free = [a for a in range(len(right.shape)) if a not in (*right_sum, *right_batch)]
    shared = len(left_batch) + len(left_sum)
    rank = shared + len(left_free) + len(right_free)

    def laid_out(value: Value, order: list[int], places: list[int]) -> Value:
        shape = [1] * rank
        for axis, place in zip(order, places, strict=True):
            shape[place] = value.shape[axis]
        where = dict(zip(order, places, strict=True))
        return trace.scales.place(value, tuple(shape), [where[a] for a in range(len(order))])

    # sum_k a[b, k, i] w[b, k, j] carries log a + log w, which must not depend on k.
    common = list(range(shared))
    first, second = shared, shared + len(left_free)
    product = trace.scales.multiply(
        laid_out(left, [*left_batch, *left_sum, *left_free], [*common, *range(first, second)]),
        laid_out(right, [*right_batch, *right_sum, *right_free], [*common, *range(second, rank)]),
    )
    return trace.scales.reduce(product, range(len(left_batch), shared))


def _convolution(trace: Trace, eqn: Any, values: list[Value]) -> list[Value]:
    """A product over (group, channel in group, batch, output channel in group) axes, then a sum."""
    p = eqn.params
    if p["batch_group_count"] != 1:
        return trace.give_up(eqn, values)
    images, kernel = values
    numbers, groups = p["dimension_numbers"], p["feature_group_count"]
    batch, channel, *space = numbers.lhs_spec
    target, source, *taps = numbers.rhs_spec
    # Every output pixel sums over taps and over the channels of its group: scales must not vary
    # along space, taps, or, for the product of image and kernel, channels within the group.
    images, kernel = trace.scales.reduce(images, space), trace.scales.reduce(kernel, taps)
    if batch > channel:
        images = trace.scales.place(images, images.shape[::-1], (1, 0))
    if target > source:
        kernel = trace.scales.place(kernel, kernel.shape[::-1], (1, 0))
    (size, width), (targets, _) = images.shape, kernel.shape
    images = trace.scales.reshape(images, (size, groups, width // groups))
    kernel = trace.scales.reshape(kernel, (groups, targets // groups, width // groups))
    shape = (groups, width // groups, size, 1)
    images = trace.scales.place(images, shape, (2, 0, 1))
    kernel = trace.scales.place(kernel, (*shape[:2], 1, targets // groups), (0, 3, 1))
    summed = trace.scales.reduce(trace.scales.multiply(images, kernel), (1,))
    summed = trace.scales.place(summed, (size, groups, targets // groups), (1, 0, 2))
    summed = trace.scales.reshape(summed, (size, targets))
    shape = tuple(eqn.outvars[0].aval.shape)
    out_batch, out_channel, *_ = numbers.out_spec
    return [trace.scales.place(summed, shape, (out_batch, out_channel))]


RULES: dict[str, Rule] = {
    "dot_general": _dot_general,
    "ragged_dot_general": _ragged_dot_general,
    "conv_general_dilated": _convolution,
}
