"""A keyword argument that is none is answered with those that are, and the nearest."""

import inspect

import pytest

from lacim_jax import Search, fit

TAKEN = "model, examples, key, num_steps, batch_size, optimiser, loss, num_starts, held_out"


@pytest.mark.parametrize(
    ("given", "advice"),
    [("optimizer", "did you mean 'optimiser'?"), ("steps", "did you mean 'num_steps'?"),
     ("verbose", "leave it out.")],
)  # fmt: skip
def test_training_names_its_keywords(given, advice):
    with pytest.raises(TypeError) as raised:
        fit(None, None, None, **{given: 1})
    assert str(raised.value) == f"fit takes {TAKEN}, got {given!r}; {advice}"


def test_a_search_names_its_keywords():
    with pytest.raises(TypeError, match=r"Search takes optimiser, .*; did you mean 'optimiser'\?"):
        Search(optimizer=None)
    assert Search(draws=2) == Search(draws=2)
    with pytest.raises(TypeError, match="positional"):
        Search(2)


def test_signatures_stay_what_they_were():
    assert ", ".join(inspect.signature(fit).parameters) == TAKEN
    assert next(iter(inspect.signature(Search).parameters)) == "optimiser"
    assert inspect.signature(fit).parameters["num_steps"].default == 1000
    assert "Initialises a model" in fit.__doc__
