"""Methods under DomainBed's rules: every run is recorded, and no rule sees what it is judged on."""

import collections
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.harness.registry import Context
from benchmarks.latent import baselines as lacim_baselines
from benchmarks.latent.baselines import load_parts
from benchmarks.latent.methods import METHODS, Sizes
from benchmarks.latent.reports.domains import RULES
from benchmarks.latent.runs import Column
from benchmarks.latent.trials import trials
from common.progress import Silent
from common.results.records import RecordWriter, read_records
from lacim_jax import Examples

SETTINGS = dataclasses.replace(
    lacim_baselines.PRESETS["smoke"],
    methods=("GroupDRO", "LaCIM"), data="digits8x8", pool=2, size=400, test_size=80,
    left_out=True, widths=(8,), s_dim=3, v_dim=2, epochs=1, trials=2, batch_size=64,
    search_steps=(1, 3),
)  # fmt: skip
SIZES = Sizes((3, 3, 2), (8,), 3, 2, num_domains=2, num_classes=2)


@pytest.fixture(scope="module")
def records():
    context = Context(seeds=(0, 3), data_dir=None, progress=Silent())
    # optax.adam corrects its bias by decay ** count, float32 by int32.
    with jax.numpy_dtype_promotion("standard"):
        return list(lacim_baselines.run(SETTINGS, context))


def test_there_is_one_record_for_every_run_and_every_search(records):
    steps = collections.Counter(
        (r.method, r.seed) for r in records if not r.setting.get("search_steps")
    )
    assert steps == {(m, s): SETTINGS.trials for m in SETTINGS.methods for s in (0, 3)}
    searched = [r for r in records if r.setting.get("search_steps")]
    assert {r.method for r in searched} == {"LaCIM"}
    assert {r.setting["search_steps"] for r in searched} == {1, 3}
    for record in records:
        shares = {*RULES.values(), "test_accuracy", "invariance_p"} - {"invariant_accuracy"}
        assert all(0 <= record.metrics[name] <= 1 for name in shares)
        rejected = record.metrics["invariance_p"] <= 0.05
        score = record.metrics["validation_accuracy"] - rejected
        assert record.metrics["invariant_accuracy"] == pytest.approx(score, abs=1e-6)
        assert 0 <= record.metrics["test_calibration_error"] <= 1
    assert all(0 <= r.metrics["bound_auroc"] <= 1 for r in searched)


def test_the_parts_are_disjoint_and_a_left_out_domain_is_gone():
    columns = [Column(0, -1), Column(0, 0), Column(0, 1)]
    parts = load_parts(SETTINGS, columns, None)
    assert parts.train.images.shape[1:] == (3, 4, 4, 2)
    for column, wanted in enumerate([{0, 1}, {1}, {0}]):
        assert set(np.asarray(parts.train.domains[:, column])) == wanted
    for column, wanted in enumerate([{0, 1}, {0}, {1}]):  # chosen on the domain that was left out
        assert set(np.asarray(parts.choice.domains[:, column])) == wanted
    # Nothing that is chosen on is what is judged on: no image of one part is in another.
    shapes = [
        {image.tobytes() for image in np.asarray(part.images[:, 0].sum(-1)).round(6)}
        for part in (parts.train, parts.choice, parts.test, parts.oracle)
    ]
    for i, own in enumerate(shapes):
        for other in shapes[i + 1 :]:
            assert len(own & other) <= 1  # 4x4 reductions of two digits may coincide
    agree = {
        name: float((part.images[..., 1].sum((2, 3)) > 0)[:, 0].astype(int).mean())
        for name, part in parts._asdict().items()
    }
    assert all(0.2 < share < 0.8 for share in agree.values())


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_trained_and_asked(name):
    method = METHODS[name]
    model = method.build(SIZES)
    data = Examples(jnp.zeros((4, 3, 3, 2)), jnp.zeros(4, jnp.int32), jnp.zeros(4, jnp.int32))
    inputs = (data.images, *((data.domains,) if method.takes_domains else ()))
    key = jax.random.key(0)
    params = jax.eval_shape(lambda k: model.init(k, *inputs)["params"], key)
    hyper = dict.fromkeys(method.ranges, jnp.ones([]))
    loss = method.loss(model, hyper, lambda step: jnp.minimum(step / 10, 1.0), SIZES)
    value, (state, _) = jax.eval_shape(loss, params, method.state(SIZES), data, key)
    assert value.shape == ()
    due = jax.eval_shape(lambda: method.state(SIZES))
    assert (state.shape, state.dtype) == (due.shape, due.dtype)
    found = jax.eval_shape(
        lambda p: method.probabilities(model, {"params": p}, data.images), params
    )
    assert found.shape == (4, 2)


def test_all_methods_try_equally_many_settings_and_the_same_learning_rates():
    settings = dataclasses.replace(SETTINGS, trials=5)
    tried = {name: trials(settings, method) for name, method in METHODS.items()}
    rates = {tuple(trial["learning_rate"] for trial in own) for own in tried.values()}
    assert len(rates) == 1
    assert {len(own) for own in tried.values()} == {5}
    for name, method in METHODS.items():
        for setting, (low, high) in method.ranges.items():
            assert all(low <= trial[setting] <= high for trial in tried[name])


def test_tables_and_plots_are_made_of_records_read_back(records, tmp_path):
    writer = RecordWriter(tmp_path / "records.jsonl", origin={"run": "1"})
    for record in records:
        writer.write(record)
    found = read_records(tmp_path / "records.jsonl")
    tables = lacim_baselines.tables(found)
    assert tables == lacim_baselines.tables(records)
    for rule in RULES:
        assert rule in tables
    *_, dro, lacim = (
        [cell.strip() for cell in line.split("|")[1:-1]] for line in tables.splitlines()
    )
    for row, method in ((dro, "GroupDRO"), (lacim, "LaCIM")):
        own = [r for r in records if r.method == method]
        rates = sorted({r.setting["learning_rate"] for r in own})
        assert row[:3] == [method, "2", ", ".join(f"{rate:g}" for rate in rates)]
    assert "rate " in dro[3]
    assert lacim[3].endswith("search steps 0, 1, 3")
    assert "(edge), " in tables  # of two learning rates either is
    (path,) = lacim_baselines.plots(found, tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")
