"""Tables whose rows are looked up by indices that are data: may each row be scaled alone?

A row's scale shows at every token that looks it up. Which tokens these are is not known, so each is
given a scale of its own: a variable a token, put to the test by all that follows. If in the end
each can be anything while the parameters stay, so can each row's scale, whatever the indices are.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gsgd_jax.tracing.algebra.scales import Epsilon, Scales, Value
from gsgd_jax.tracing.algebra.solver import System

_MOST_TOKENS = 2**12


class Tables:
    """The tables of a model, by the number of the parameter.

    Args:
        scales: the algebra.
    """

    def __init__(self, scales: Scales):
        self._scales = scales
        self._tokens: dict[int, list[np.ndarray]] = {}  # numbers of the tokens' scales
        self._tied: set[int] = set()

    def tie(self, value: Value) -> None:
        """Notes that a table is used otherwise than row by row.

        Args:
            value: any value.
        """
        if value.table is not None:
            self._tied.add(value.table)

    def look_up(self, value: Value, shape: tuple[int, ...], batch: Sequence[int]) -> Value | None:
        """Scales of tokens, to multiply what a lookup gives; None if there are none.

        Args:
            value: a table.
            shape: of the rows that are looked up.
            batch: axes of the shape that are those of the indices.
        """
        lengths = [shape[a] for a in batch]
        count = int(np.prod(lengths, dtype=np.int64))
        # Sums over an axis of one token do not show, so such tokens can't be told to be free.
        if value.table is None or min(lengths, default=1) < 2 or count > _MOST_TOKENS:
            self.tie(value)
            return None
        numbers = self._scales.system.fresh(count, trial=True)
        self._tokens.setdefault(value.table, []).append(numbers)
        dims = tuple(n if a in batch else 1 for a, n in enumerate(shape))
        return self._scales.varying(dims, tuple(batch), numbers.reshape(lengths))

    def settle(self, leaves: Sequence[Value | None]) -> dict[int, System]:
        """Decides whose rows are free, and ties the others, when all equations are known.

        Args:
            leaves: of the parameters.

        Returns:
            For every table with free rows, the equations with all parameters and all other tables
            at rest: what has a form there that is not zero moves with rows of the table.
        """
        system = self._scales.system
        at_rest = [number for leaf in leaves if leaf is not None for number in leaf.numbers()]
        free = {t: np.concatenate(n) for t, n in self._tokens.items() if t not in self._tied}
        for table, numbers in self._tokens.items():
            if table not in free:
                system.vanish(np.concatenate(numbers))
        while free:
            trial = system.copy()
            trial.vanish(np.array(at_rest, np.int64))
            bound = next((t for t, n in free.items() if trial.vanish(n) < len(n)), None)
            if bound is None:
                break
            system.vanish(free.pop(bound))  # and see what the others can do without it
        alone = {}
        for table in free:
            alone[table] = system.copy()
            others = [numbers for other, numbers in free.items() if other != table]
            alone[table].vanish(np.concatenate([np.array(at_rest, np.int64), *others]))
        for numbers in free.values():
            system.vanish(numbers)
        return alone


class Rows(NamedTuple):
    """What the free rows of a table add."""

    leaf: Value  # the parameter, its rows apart
    scales: Value  # of the rows, [rows]
    divides: bool  # whether something is divided by what moves with them
    softened: list[Epsilon]  # what was added to that


def free_rows(
    scales: Scales,
    leaf: Value,
    alone: System,
    divisors: Sequence[Value],
    softened: Sequence[tuple[Value, Epsilon]],
) -> Rows:
    """Gives every row of a table a scale of its own.

    Args:
        scales: the algebra.
        leaf: the parameter.
        alone: the equations with all other parameters at rest.
        divisors: what something is divided by.
        softened: values to which an epsilon was added.
    """
    count = leaf.shape[0]
    # The first row has the scale that the table has; log w_vd = scale_v - scale_0 + log w_0d.
    numbers = np.append(leaf.overall, scales.system.fresh(count - 1))
    rows = scales.varying((count,), (0,), numbers)
    shifts = scales.system.combine(numbers, leaf.overall, -1)
    dims = (count, *[1] * (len(leaf.shape) - 1))
    moved = scales.multiply(scales.constant(leaf, (0,)), scales.varying(dims, (0,), shifts))

    def moves(value: Value) -> bool:
        return bool(alone.simplified(np.array(value.numbers())).any())

    notes = [epsilon for value, epsilon in softened if moves(value)]
    return Rows(moved, rows, any(map(moves, divisors)), notes)
