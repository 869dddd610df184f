"""Annotations are checked in every definition, though equal ones share what checks them."""

from typing import Annotated, Literal

import jax.numpy as jnp
import pytest
from jaxtyping import Array, Float, TypeCheckError, jaxtyped

from tests.typechecked import beartype_once


def defined(annotation, value):
    """A function that is defined anew at every call, as those inside others are."""

    @jaxtyped(typechecker=beartype_once)
    def inner(x: annotation, y: annotation) -> annotation:
        return value

    return inner


@pytest.mark.parametrize("again", range(2))
def test_definitions_that_share_a_check_are_checked_each_by_itself(again):
    assert defined(int, 3)(1, 2) == 3
    assert defined(int, 4)(1, 2) == 4
    with pytest.raises(TypeCheckError, match=r"parameters of .*defined\.<locals>\.inner"):
        defined(int, 3)(1, "2")
    with pytest.raises(TypeCheckError, match="return value of"):
        defined(int, "3")(1, 2)


def test_other_annotations_of_the_same_code_are_other_checks():
    assert defined(str, "3")("1", "2") == "3"
    with pytest.raises(TypeCheckError, match="parameters of"):
        defined(str, "3")(1, 2)
    # Equal as numbers are, but not the same.
    assert defined(Literal[1], 1)(1, 1) == 1
    assert defined(Literal[True], True)(True, True) is True
    with pytest.raises(TypeCheckError, match="parameters of"):
        defined(Literal[True], True)(1, 1)


def test_axes_are_bound_anew_at_every_call():
    vector = Float[Array, " n"]
    for n in (2, 3):
        x = jnp.ones(n)
        assert defined(vector, x)(x, x) is x
        with pytest.raises(TypeCheckError, match="parameters of"):
            defined(vector, x)(x, jnp.ones(n + 1))


def test_an_annotation_without_a_hash_is_checked_too():
    listed = Annotated[int, []]
    with pytest.raises(TypeError):
        hash(listed)
    assert defined(listed, 3)(1, 2) == 3
    with pytest.raises(TypeCheckError, match="parameters of"):
        defined(listed, 3)(1, "2")
