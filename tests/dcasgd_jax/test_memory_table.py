"""The documentation's table of memory, counted from the states that rules really make."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

import dcasgd_jax
from dcasgd_jax import SendingRule, peers

PAGE = Path(__file__).resolve().parents[2] / "benchmarks" / "docs" / "pages" / "delay.md"
_, _, SECTION = PAGE.read_text(encoding="utf-8").partition("### What each keeps in memory\n")
ROWS = re.findall(r"^\| (`.*) \| (\d+) \|$", SECTION.partition("\n#")[0], re.MULTILINE)
CALLS = [(call, int(copies)) for calls, copies in ROWS for call in re.findall(r"`(.+?)`", calls)]
NAMES = {**vars(dcasgd_jax), "optax": optax, "peers": peers}


def test_every_rule_with_a_state_is_in_the_table():
    states = [name for name in dcasgd_jax.__all__ if name.endswith("State")]
    states += [name for name in peers.__all__ if name.endswith("State")]
    made = set()
    for call, _ in CALLS:
        rule = eval(call, dict(NAMES))
        tx = rule.tx if isinstance(rule, SendingRule) else rule
        state = jax.eval_shape(tx.init, jnp.zeros((8, 8)))
        made |= {type(part).__name__ for part in [state, *jax.tree.leaves(state, is_leaf=_named)]}
    assert {name for name in states if name != "SimulatorState"} <= made


def _named(node):
    return type(node).__name__.endswith("State") and hasattr(node, "_fields")


@pytest.mark.parametrize(("call", "copies"), CALLS)
def test_copies_are_those_of_the_state(call, copies):
    weights = {"w": jnp.zeros((128, 128))}
    rule = eval(call, dict(NAMES))
    tx = rule.tx if isinstance(rule, SendingRule) else rule
    state = jax.eval_shape(tx.init, weights)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert size / weights["w"].nbytes == pytest.approx(copies, abs=0.01)
