"""Every piece fits its experiment: settings that can be trained, work that can be counted."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.accelerator import plan
from benchmarks.accelerator.cards import CARDS
from benchmarks.accelerator.pieces import PIECES
from benchmarks.accelerator.plan import Fitted, Planner
from benchmarks.accelerator.work import DATA
from benchmarks.delay.images import Data, cases, shortened, waited_for, whole_rounds
from benchmarks.delay.language.stages import stages_of
from benchmarks.delay.training import Trainer
from benchmarks.harness import registry
from benchmarks.harness.courses import rates_of
from benchmarks.harness.halving import budgets
from common.data import PixelStatistics, load

BY_NAME = {piece.name: piece for piece in PIECES}
(H100,) = (card for card in CARDS if card.name == "H100")


def least(name, narrow):
    """The settings of a piece cut as far as they can be."""
    piece = BY_NAME[name]
    epochs = plan.least_epochs(plan.settings_of(piece, "full", narrow=narrow))
    fitted = Fitted(narrow, epochs if piece.cut else None)
    assert plan.unfit(piece, "full", fitted) is None
    return plan.settings_of(piece, "full", narrow=narrow, epochs=fitted.epochs), epochs


def test_shares_are_of_the_whole_and_changes_are_of_settings_that_there_are():
    assert sum(piece.share for piece in PIECES) == pytest.approx(1.0)
    for piece in PIECES:
        settings = plan.settings_of(piece, "full", narrow=True)
        for name, value in {**piece.changes, **piece.narrow}.items():
            assert getattr(settings, name) == value
        assert piece.narrow, "every piece has less of it where all does not fit"


@pytest.mark.parametrize("name", BY_NAME)
def test_narrowing_leaves_fewer_steps_and_programs(name):
    wide, narrow = (
        BY_NAME[name].work(plan.settings_of(BY_NAME[name], "full", narrow=each), 3)
        for each in (False, True)
    )
    assert all(work.steps > 0 and work.compiled > 0 for work in (*wide, *narrow))
    assert sum(work.steps for work in narrow) < sum(work.steps for work in wide)
    assert sum(work.compiled for work in narrow) <= sum(work.compiled for work in wide)


@pytest.mark.parametrize("name", BY_NAME)
def test_the_work_of_small_presets_is_counted(name):
    planned = Planner(H100, "smoke").alone(BY_NAME[name], Fitted(), seeds=1, minutes=None)
    assert planned.works
    assert all(cost.operations > 0 and cost.kept > 0 for cost in planned.costs)
    assert planned.expected > plan.START


def test_data_sets_are_as_large_as_the_plan_counts():
    for name in ("mnist5k", "digits8x8"):
        for split in ("train", "test"):
            found = load(name, split)
            assert found.images.shape == (getattr(DATA[name], split), *DATA[name].image)


@pytest.mark.parametrize("narrow", [False, True])
def test_simulated_workers_cut_to_an_epoch_are_trained_in_whole_rounds(narrow):
    settings, epochs = least("dcasgd_cifar10", narrow)
    assert epochs == (1 if narrow else 5)
    images = round(0.9 * DATA["cifar10"].train)
    train = jnp.zeros((images, 1)), jnp.zeros(images, jnp.int32)
    part = jnp.zeros((8, 1)), jnp.zeros(8, jnp.int32)
    data = Data(train, part, part, 10, PixelStatistics(np.zeros(1), np.ones(1)))
    for budget, _ in budgets(len(settings.learning_rates), settings.epochs, settings.halving):
        trainer = Trainer(shortened(settings, budget), data)
        assert trainer.gradients % trainer.settings.evaluations == 0
        # Of the gradients that there are, few are lost to rounds that are not whole.
        assert 0.93 * 351 * budget < trainer.gradients <= 351 * budget
        assert all(trainer.gradients % (waited_for(case) or 1) == 0 for case in cases(settings))


@pytest.mark.parametrize("epochs", range(1, 12))
def test_cut_to_few_epochs_hardly_a_gradient_is_lost(epochs):
    piece = BY_NAME["dcasgd_cifar10"]
    settings = plan.settings_of(piece, "full", narrow=True, epochs=epochs)
    assert whole_rounds(351 * epochs, settings) > 0.93 * 351 * epochs


@pytest.mark.parametrize("narrow", [False, True])
def test_steps_of_path_space_change_in_the_fewest_epochs(narrow):
    settings, epochs = least("gsgd_cifar10", narrow)
    assert epochs == (1 if narrow else 9)
    for budget, _ in budgets(len(settings.learning_rates), epochs, settings.halving):
        rates = rates_of(settings.course, 1.0, epochs=budget, per_epoch=351)
        assert len(rates) == 351 * budget
        assert np.all(rates > 0)


@pytest.mark.parametrize("narrow", [False, True])
def test_coloured_digits_cut_to_an_epoch_have_steps_and_a_search(narrow):
    settings, epochs = least("lacim_colored_digits", narrow)
    assert epochs == settings.epochs == 1
    training, search = BY_NAME["lacim_colored_digits"].work(settings, 3)
    assert training.steps == training.runs * (54_000 // 128)
    assert search.steps > 0


def test_the_language_model_has_its_stages_and_timed_pieces_their_ways():
    for narrow, stages in ((False, 18), (True, 2)):
        settings = plan.settings_of(BY_NAME["delayed_language_model"], "full", narrow=narrow)
        assert len(stages_of(settings)) >= stages
    for name in registry.TIMED:
        assert plan.seeds_of(BY_NAME[name], 3) == 1
        with pytest.raises(AttributeError):
            _ = plan.settings_of(BY_NAME[name], "full").epochs
    assert dataclasses.is_dataclass(plan.settings_of(BY_NAME["lacim_speed"], "full", narrow=True))


@pytest.mark.parametrize(("name", "least"), [("dcasgd_cifar10", 5), ("gsgd_cifar10", 9)])
def test_at_day_where_steps_are_halved_no_rung_is_left_without_an_epoch(name, least):
    planned = Planner(H100, "day").fitting(BY_NAME[name], 0.01, 3)
    assert plan.least_epochs(registry.preset(registry.load(name), "day")) == least
    assert planned.settings.epochs == least
    tried = budgets(len(planned.settings.learning_rates), least, planned.settings.halving)
    assert tried[0][0] == 1
