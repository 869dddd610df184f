"""Groups of axes: united where they overlap, matched where an array is reshaped."""

from collections.abc import Iterable


def merge(groups: Iterable[Iterable[int]]) -> list[tuple[int, ...]]:
    """Unites groups that share an axis.

    Args:
        groups: of axes.
    """
    merged: list[set[int]] = []
    for group in groups:
        united = set(group)
        apart = [other for other in merged if not other & united]
        merged = [*apart, united.union(*(other for other in merged if other & united))]
    return [tuple(sorted(group)) for group in merged if group]


def factor(
    old: tuple[int, ...], new: tuple[int, ...]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Matches runs of axes of equal size between two shapes, leaving out axes of size 1.

    Args:
        old: a shape.
        new: another, of as many entries.
    """
    ours = [a for a, n in enumerate(old) if n != 1]
    theirs = [b for b, n in enumerate(new) if n != 1]
    groups, i, j = [], 0, 0
    while i < len(ours) and j < len(theirs):
        first_i, first_j = i, j
        left, right = old[ours[i]], new[theirs[j]]
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left, i = left * old[ours[i]], i + 1
            else:
                right, j = right * new[theirs[j]], j + 1
        groups.append((tuple(ours[first_i:i]), tuple(theirs[first_j:j])))
    return groups
