"""The README: every Python snippet runs as it is typed, and does what it is there to show."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

from gsgd_jax import balance
from tests.compiled import as_users_do

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def run(package, **replaced):
    """Executes the snippet of one package, as users have jax; what it defines."""
    (code,) = (snippet for snippet in SNIPPETS if f"from {package} import" in snippet)
    for old, new in replaced.values():
        assert old in code
        code = code.replace(old, new)
    defined = {"__name__": "readme"}
    with (
        as_users_do(), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow")
    ):  # fmt: skip
        exec(compile(code, f"README.md, {package}", "exec"), defined)
    return defined


@pytest.mark.parametrize("seed", range(5))
def test_path_space_ends_where_plain_adam_does(capsys, seed):
    """It printed nan for a whole release: here it must print a loss, and a good one."""
    there = run("gsgd_jax", seed=("jax.random.key(0)", f"jax.random.key({seed})"))
    plain = run(
        "gsgd_jax",
        seed=("jax.random.key(0)", f"jax.random.key({seed})"),
        tx=("in_path_space(optax.adam(1e-2), gauge)", "optax.adam(1e-2)"),
    )
    before, after, adam, adams = re.findall(r"^(?:before|after) (\S+)$", capsys.readouterr().out,
                                            flags=re.MULTILINE)  # fmt: skip
    assert before == adam
    assert float(after) < 0.2 * float(before)
    assert float(after) < 1.5 * float(adams)
    largest, balanced, usual = (
        max(float(np.abs(w).max()) for w in jax.tree.leaves(tree))
        for tree in (
            there["params"], balance(there["params"], there["gauge"]), plain["params"]
        )
    )  # fmt: skip
    assert balanced < 3 * usual
    assert largest < 100 * balanced
    assert there["gauge"].num_nodes == 16


def test_the_simulated_cluster_finds_the_truth(capsys):
    there = run("dcasgd_jax")
    printed = capsys.readouterr().out
    np.testing.assert_allclose(there["w"], there["truth"], atol=1e-3)
    staleness = int(re.search(r"staleness at most (\d+)", printed)[1])
    assert staleness == int(there["info"].staleness.max()) >= 8
    assert float(re.search(r"simulated seconds (\S+)", printed)[1]) > 100
    # Two stages of a pipeline: the product of their weights is what there is to be learnt.
    layers, late = there["layers"], there["late"]
    np.testing.assert_allclose(layers["first"] @ layers["last"], there["truth"], atol=1e-3)
    assert "staleness of each stage {'first': 1, 'last': 0}" in printed
    assert [np.unique(late.staleness[s][1:]).tolist() for s in ("first", "last")] == [[1], [0]]
    assert [late.state.snapshots[s].shape[0] for s in ("first", "last")] == [2, 1]
    # The compensation is at work: without it the run is another.
    plain = run("dcasgd_jax", rule=("delay_compensation(2.0, mean_square_decay=0.95)",
                                    "optax.identity()"))  # fmt: skip
    capsys.readouterr()
    assert np.abs(plain["w"] - there["w"]).max() > 0


def test_latent_causes_predict_better_than_chance(capsys):
    there = run("lacim_jax")
    accuracy = float(re.search(r"accuracy (\S+)", capsys.readouterr().out)[1])
    assert accuracy > 0.8  # chance is a half
    probabilities = there["found"].probabilities
    assert accuracy == pytest.approx(
        float(np.mean(np.argmax(probabilities, 1) == np.asarray(there["labels"]))), abs=1e-6
    )


def test_there_is_a_snippet_for_each_method_and_no_other():
    packages = ("gsgd_jax", "dcasgd_jax", "lacim_jax")
    owners = [[p for p in packages if f"from {p} import" in snippet] for snippet in SNIPPETS]
    assert owners == [[package] for package in packages]


def test_it_is_short_and_its_snippets_are_one_statement_a_line():
    assert len(README.splitlines()) <= 160
    for snippet in SNIPPETS:
        assert ";" not in snippet
        assert max(map(len, snippet.splitlines())) <= 92


def test_the_make_targets_it_names_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)", README))
    assert {"demo", "test"} <= named <= targets


def test_links_lead_to_files():
    for target in re.findall(r"\]\(((?!https?:)[^)#]+)", README):
        assert (ROOT / target).exists(), target
