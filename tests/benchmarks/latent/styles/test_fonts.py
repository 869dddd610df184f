"""A font a domain: what is trained on, what is asked, what is recorded, and what tables say."""

import collections
import dataclasses

import jax
import numpy as np
import pytest

from benchmarks.harness.registry import Context
from benchmarks.latent.reports.fonts import (
    CONDITIONS,
    CORRELATED,
    ERM,
    LACIM,
    NEVER,
    PCA,
    POOLED,
    chosen,
)
from benchmarks.latent.styles import fonts
from common.data.generated.glyph_fonts import HELD_OUT_FONTS, TRAINING_FONTS
from common.progress import Silent
from lacim_jax import SharedEvidence

SEEDS = (0, 3)
SETTINGS = dataclasses.replace(
    fonts.PRESETS["smoke"], num_domains=(1, 2), methods=("V-REx", POOLED, CORRELATED),
    size=120, test_size=80, search_size=20, widths=(8,), s_dim=3, v_dim=5, batch_size=40, epochs=1,
    search_steps=(2,),
)  # fmt: skip
NAMES = {f"{name}_accuracy" for name in (*CONDITIONS, "choice")}


@pytest.fixture(scope="module")
def records():
    """Of one method with two fonts: that is all that differs in the others' records."""
    settings = dataclasses.replace(SETTINGS, num_domains=(2,), methods=(POOLED,))
    # optax.adam corrects its bias by decay ** count, float32 by int32.
    with jax.numpy_dtype_promotion("standard"):
        return list(fonts.run(settings, Context(seeds=SEEDS, data_dir=None, progress=Silent())))


def test_every_method_is_recorded_with_and_without_search(records):
    found = collections.Counter(
        (r.method, r.setting["num_domains"], r.setting.get("search_steps")) for r in records
    )
    due = [(PCA, 2, None), (POOLED, 2, 0), (POOLED, 2, 2)]
    assert found == dict.fromkeys(due, len(SEEDS))


def test_of_one_font_nothing_is_compared_or_pooled(monkeypatch):
    ran = []
    monkeypatch.setattr(fonts, "_run_method", lambda name, m, *rest: ran.append((name, m)) or [])
    list(fonts.run(SETTINGS, Context(seeds=(0,), data_dir=None, progress=Silent())))
    assert ran == [(CORRELATED, 1), *((name, 2) for name in SETTINGS.methods)]


def test_methods_differ_in_their_priors_and_share_the_rest():
    sizes = SETTINGS.sizes((16, 16, 1), num_domains=4, num_classes=26)
    built = {
        name: fonts.method_of(name, 10.0)[0].build(sizes) for name in (LACIM, CORRELATED, POOLED)
    }
    assert {name: model.num_domains for name, model in built.items()} == {
        LACIM: 4, CORRELATED: 4, POOLED: 1
    }  # fmt: skip
    assert [name for name, model in built.items() if model.correlated_prior] == [CORRELATED]
    for model in built.values():
        assert model.posterior == SharedEvidence()
        assert (model.encoder, model.decoder) == (built[LACIM].encoder, built[LACIM].decoder)
    assert [fonts.method_of(name, 10.0)[0].searches for name in built] == [True, False, True]
    assert fonts.method_of(NEVER, 10.0) == fonts.method_of(ERM, 10.0)
    assert fonts.method_of("V-REx", 10.0)[1] == {"weight": 10.0}
    assert fonts.method_of(ERM, 10.0)[1] == {}


def test_accuracies_and_correlations_are_in_range_and_searches_have_their_own(records):
    for record in records:
        own = record.metrics
        if record.method != PCA:
            assert own.keys() >= NAMES
            assert all(0 <= own[name] <= 1 for name in NAMES)
        if record.setting.get("search_steps") == 2:
            assert own.keys() == NAMES
            assert own["choice_accuracy"] == own["validation_accuracy"]
        elif "LaCIM" in record.method:
            assert {
                "mcc",
                "mcc_tied",
                "style_in_v",
                "style_in_s",
                "active_v",
                "bound",
            } <= own.keys()
            by_dim = [own[f"mcc_{name}"] for name in ("size", "rotation", "shift", "ink")]
            assert abs(np.mean(by_dim) - own["mcc"]) < 1e-9
            assert all(-1 <= value <= 1 for value in by_dim)


def test_training_and_test_fonts_share_none_and_more_fonts_contain_fewer():
    held_out = []
    with pytest.MonkeyPatch.context() as patch:

        def noted(key, chosen, **more):
            held_out.append(tuple(chosen))
            return glyph_model(key, chosen, **more)

        glyph_model = fonts.glyph_model
        patch.setattr(fonts, "glyph_model", noted)
        parts = [fonts.load_parts(SETTINGS, m, 0) for m in (1, 2, 33)]
    known, new = held_out[::2], held_out[1::2]
    assert known[2][:2] == known[1]
    assert known[1][:1] == known[0]
    assert len(set(known[2]) & set(TRAINING_FONTS)) == 33
    assert new == [HELD_OUT_FONTS] * 3
    for m, part in zip((1, 2, 33), parts, strict=True):
        assert len(part.train.labels) == SETTINGS.size // m * m
        assert set(part.train.domains) == set(range(m))
    # Tests in new fonts are the same images, whatever was trained on.
    for name in ("new_fonts", "test"):
        np.testing.assert_array_equal(parts[0].tests[name].images, parts[2].tests[name].images)
    # Other images are scored than were trained on, or fitted on.
    drawn = [parts[1].train, *parts[1].pairs, parts[1].tied, parts[1].tests["validation"]]
    assert len({each.style[0].tobytes() for each in drawn}) == len(drawn)


def test_style_and_letter_are_tied_turned_and_untied_where_that_is_said():
    settings = dataclasses.replace(SETTINGS, size=2000, test_size=2000)
    parts = fonts.load_parts(settings, 2, 0)

    def explained(first, data, d):
        """The correlation of a number with what the training images' letters lead to expect."""
        expected = np.stack([first.style[first.labels == y].mean(0) for y in range(26)])[
            data.labels
        ]
        rows = data.domains == d
        return np.mean(
            [np.corrcoef(expected[rows, i], data.style[rows, i])[0, 1] for i in range(4)]
        )

    for name, sign in (("validation", 1), ("turned", -1), ("new_fonts", 1), ("test", -1)):
        assert sign * explained(parts.train, parts.tests[name], 0) > 0.4, name
    np.testing.assert_array_equal(parts.never.labels, parts.train.labels)
    assert abs(explained(parts.train, parts.never, 0)) < 0.12
    for part in parts.pairs:
        assert abs(explained(parts.train, part, 0)) < 0.12
    assert explained(parts.train, parts.tied, 0) > 0.4


def test_diversity_grows_with_the_fonts_and_suffices_where_it_should():
    ranks = {m: fonts.load_parts(SETTINGS, m, 0).diversity for m in (1, 2, 12, 33)}
    assert [each["rank"] for each in ranks.values()] == [0, 1, 8, 8]
    assert [each["rank_correlated"] for each in ranks.values()] == [0, 1, 11, 14]
    assert ranks[33]["needed"] == 9
    assert ranks[33]["needed_correlated"] == 15
    assert ranks[33]["condition"] < ranks[12]["condition"] < 100


def test_a_search_is_chosen_by_images_as_in_training(records):
    for steps, said in ((2, "Pool-LaCIM from 2"), (0, "none")):
        told = [
            dataclasses.replace(r, metrics={**r.metrics, "choice_accuracy": float(right)})
            for r in records
            for right in [r.setting.get("search_steps") == steps]
        ]
        assert {r.setting["search_steps"] for r in chosen(told)[2][POOLED]} == {steps}
        assert f"latent search of 2 steps chosen for: {said}" in fonts.tables(told)


def test_tables_and_figure_read_records_even_of_a_run_that_was_stopped(records, tmp_path):
    every = [
        dataclasses.replace(r, method=method, setting={**r.setting, "num_domains": m})
        for r in records
        for m in (1, 2)
        for method in ((LACIM, ERM, POOLED)[: m + 1] if r.method == POOLED else (r.method,))
    ]
    text = fonts.tables(every)
    assert text.count("| training fonts") == len(CONDITIONS) + 5
    (pooled, *_) = (line for line in text.splitlines() if line.startswith("| Pool-LaCIM"))
    assert pooled.split("|")[2].strip() == "-"  # of one font it is LaCIM
    assert "rank of 8, priors with variances" in text
    assert [path.name for path in fonts.plots(every, tmp_path)] == list(fonts.CAPTIONS)
    for part in (records[:2], records[:4], every[: len(every) // 2]):
        assert fonts.tables(part)
