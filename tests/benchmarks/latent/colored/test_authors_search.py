"""Our search beside the authors': what is timed with PyTorch, and without it."""

import dataclasses

import pytest

from benchmarks.harness.registry import Context
from benchmarks.latent.colored import authors_search
from benchmarks.latent.contests import Settings
from benchmarks.latent.reports.authors_search import AUTHORS, ENOUGH, OURS
from common.progress import Silent

CONTEXT = Context(seeds=(0,), data_dir=None, progress=Silent())
SMALL = Settings(
    train_images=32, search_images=8, s_dim=2, v_dim=2, batch_size=16, search_steps=2,
    chunk_size=8, fitted_steps=1, channels=(8, 8), authors_draws=2,
)  # fmt: skip
NETWORK = authors_search.Convolutions(SMALL.channels)


@pytest.mark.usefixtures("standard_promotion")
def test_without_pytorch_ours_alone_is_timed(monkeypatch):
    monkeypatch.setattr(authors_search, "installed", lambda library: False)
    contest = authors_search.searching(
        NETWORK, dataclasses.replace(SMALL, search_steps=1), 0, CONTEXT
    )
    assert list(contest.ways) == list(contest.arithmetic) == [OURS]
    assert contest.others() == {"objective": pytest.approx(contest.ways[OURS]().mean(), rel=1e-6)}
    assert NETWORK.name == "32x32x3 from 8-8 channels"


@pytest.mark.usefixtures("standard_promotion")
def test_ours_takes_the_steps_that_their_objective_asks_for():
    pytest.importorskip("torch", reason="needs PyTorch, the extra torch")
    contest = authors_search.searching(NETWORK, SMALL, 0, CONTEXT)
    assert list(contest.ways) == [OURS, ENOUGH, AUTHORS]
    assert contest.arithmetic.keys() == contest.ways.keys()
    reached = contest.others()
    assert contest.ways[AUTHORS]().shape == (8, 4)
    assert reached["enough_steps"] in (0, 1, 2)
    assert reached["enough_objective"] >= reached["authors_objective"]
    assert contest.ways[ENOUGH]().mean() == pytest.approx(reached["enough_objective"], rel=1e-5)
