"""The label goes with the style in training and against it in test, for every seed anew."""

import collections
import dataclasses

import jax
import numpy as np
import pytest

from benchmarks.harness.registry import Context
from benchmarks.judgement import latent_verdict
from benchmarks.latent.styles import spurious_pacs as lacim_spurious_pacs
from common.data.generated.spurious_styles import AGAINST, spurious_styles
from common.progress import Silent

CONTEXT = Context(seeds=(0, 3), data_dir=None, progress=Silent())
SETTINGS = dataclasses.replace(
    lacim_spurious_pacs.PRESETS["smoke"],
    methods=("ERM",), size=256, test_size=100, widths=(8,), s_dim=3, v_dim=2, epochs=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def run():
    """The records, and the mixtures that were made for them."""
    made = []

    def noted(key, whole, **settings):
        made.append(spurious_styles(key, whole, **settings))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lacim_spurious_pacs, "spurious_styles", noted)
        # optax.adam corrects its bias by decay ** count, float32 by int32.
        with jax.numpy_dtype_promotion("standard"):
            return list(lacim_spurious_pacs.run(SETTINGS, CONTEXT)), made


def test_there_is_one_record_for_every_trial_and_seed(run):
    found = collections.Counter((r.setting["strength"], r.seed) for r in run[0])
    assert found == {(0.9, seed): SETTINGS.trials for seed in CONTEXT.seeds}


def test_every_seed_has_a_mixture_of_its_own_and_the_last_domain_is_the_test(run):
    first, second = run[1]
    assert first.domain_names[-1] == AGAINST
    assert len(first.labels) == len(second.labels)
    assert not np.array_equal(first.images, second.images)


def test_the_table_and_the_verdict_read_the_records(run):
    records = [
        dataclasses.replace(record, method=method)
        for record in run[0]
        for method in ("ERM", "V-REx", "LaCIM")
    ]
    table = lacim_spurious_pacs.tables(records)
    assert "strength" not in table
    assert "| V-REx" in table
    finding = latent_verdict.domains({"lacim_spurious_pacs": records})
    # All three are the same runs, so each has what the oracle's choice of a setting gives.
    of_setting = collections.defaultdict(list)
    for record in run[0]:
        of_setting[record.setting["learning_rate"]].append(record.metrics)
    assert all(len(trained) == len(CONTEXT.seeds) for trained in of_setting.values())
    chosen = max(of_setting.values(), key=lambda them: sum(m["oracle_accuracy"] for m in them))
    accuracy = f"{100 * np.mean([metrics['test_accuracy'] for metrics in chosen]):.1f}"
    cells = [[cell.strip() for cell in line.split("|")] for line in finding.figures.split("\n")]
    row = ["SpuriousPACS", "oracle", accuracy, "", accuracy, f"V-REx {accuracy}"]
    assert ["", *row, ""] in cells
