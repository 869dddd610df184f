"""Exact elimination as equations arrive, against dense linear algebra."""

from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gsgd_jax.tracing.algebra.forms import ZERO
from gsgd_jax.tracing.algebra.solver import System

WIDTH = 5
rows = st.lists(st.lists(st.integers(-2, 2), min_size=WIDTH, max_size=WIDTH), max_size=7)


def number(system, variables, row):
    total = ZERO
    for variable, coefficient in zip(variables.tolist(), row, strict=True):
        if coefficient:
            total = system.combine(total, system.times(variable, coefficient))
    return total


@settings(derandomize=True, deadline=None, max_examples=60)
@given(rows, st.lists(st.integers(-2, 2), min_size=WIDTH, max_size=WIDTH))
def test_equations_are_counted_and_imply_what_they_should(equations, other):
    system = System()
    variables = system.fresh(WIDTH)
    count = sum(system.vanish(number(system, variables, row)) for row in equations)
    matrix = np.array(equations, float).reshape(-1, WIDTH)
    rank = np.linalg.matrix_rank(matrix) if equations else 0
    assert count == rank
    implied = np.linalg.matrix_rank(np.vstack([matrix, other])) == rank
    assert (not system.form(number(system, variables, other))) == implied
    assert system.rank([variables]) == WIDTH - rank


def test_equal_forms_get_equal_numbers():
    system = System()
    x, y, z = system.fresh(3)
    assert system.simplified(np.array([x, y])).tolist() == [x, y]
    system.vanish(system.combine(x, y, -1))
    system.vanish(system.combine(y, z, -1))
    assert len(set(system.simplified(np.array([x, y, z])).tolist())) == 1


def test_fractions_are_exact():
    system = System()
    x, y = system.fresh(2)
    system.vanish(system.combine(system.times(x, 3), system.times(y, 2), -1))
    (coefficient,) = system.form(y).values()
    assert coefficient == Fraction(3, 2)
    assert not system.form(system.combine(system.times(y, Fraction(2, 3)), x, -1))


def test_a_basis_expresses_what_it_spans():
    system = System()
    x, y, z = system.fresh(3)
    assert system.adopt(system.combine(x, y)) == -1
    assert system.adopt(y) == -2
    assert system.adopt(x) is None
    assert system.form(x) == {-1: 1, -2: -1}
    system.drop([-2])
    assert system.form(x) == {-1: 1}
    assert all(v > 0 for v in system.form(z))


def test_trials_take_no_part_in_the_count():
    system = System()
    x, y = system.fresh(2)
    first, second = system.fresh(2, trial=True)
    assert system.vanish(system.combine(x, first, -1)) == 1  # x = 0 once the trial is
    assert system.vanish(system.combine(x, second, -1)) == 0  # first = second: says nothing then
    assert system.vanish(second) == 0
    assert not system.form(x)
    assert system.form(y)


def test_a_copy_goes_its_own_way():
    system = System()
    x, y = system.fresh(2)
    (trial,) = system.fresh(1, trial=True)
    system.vanish(system.combine(x, y, -1))
    other = system.copy()
    assert other.vanish(np.array([x, trial])) == 2
    assert not other.form(y)
    assert system.form(y)
    assert system.form(trial)


@settings(derandomize=True, deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_many_equations_at_once_say_what_they_say_one_by_one(seed):
    rng = np.random.default_rng(seed)
    count = 80
    together, apart = System(), System()
    variables = together.fresh(count)
    apart.fresh(count)
    one, other = rng.integers(0, count, (2, 60))
    sign = int(rng.choice([-1, 1]))
    equations = together.combine(variables[one], variables[other], sign)
    vanished = [apart.vanish(apart.combine(variables[i], variables[j], sign))
                for i, j in zip(one, other, strict=True)]  # fmt: skip
    assert together.vanish(equations) == sum(vanished)
    sums = together.combine(variables, np.roll(variables, 1))
    for number, x, y in zip(sums, variables, np.roll(variables, 1), strict=True):
        assert together.form(number) == apart.form(apart.combine(x, y))
    spanned = np.arange(count + 1) > count // 2
    together.adopt_each(sums, spanned)
    for number in sums.tolist():
        if all(v < 0 or spanned[v] for v in apart.form(number)):
            apart.adopt(number)
    assert [together.form(v) for v in variables] == [apart.form(v) for v in variables]
