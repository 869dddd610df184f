"""Every domain is left out in turn; nothing of it is seen before the test but by the oracle."""

import collections
import dataclasses
import itertools

import jax
import numpy as np
import pytest
from PIL import Image

from benchmarks.harness.registry import Context
from benchmarks.latent.methods import METHODS
from benchmarks.latent.runs import Column, Parts
from benchmarks.latent.styles import pacs as lacim_pacs
from common.data import from_domains
from common.progress import Silent
from common.results.records import Record
from lacim_jax import Examples, gaussian_likelihood

CONTEXT = Context(seeds=(0, 3), data_dir=None, progress=Silent())
SETTINGS = dataclasses.replace(
    lacim_pacs.PRESETS["smoke"],
    methods=("ERM",), size=256, test_size=100, widths=(8,), s_dim=3, v_dim=2, epochs=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def records():
    # optax.adam corrects its bias by decay ** count, float32 by int32.
    with jax.numpy_dtype_promotion("standard"):
        return list(lacim_pacs.run(SETTINGS, CONTEXT))


def test_there_is_one_record_for_every_domain_trial_and_seed(records):
    found = collections.Counter((r.setting["test_domain"], r.seed) for r in records)
    due = itertools.product(SETTINGS.test_domains, CONTEXT.seeds)
    assert found == dict.fromkeys(due, SETTINGS.trials)


def test_parts_share_no_image_and_a_left_out_domain_is_gone():
    whole = lacim_pacs.read_images(SETTINGS.data, CONTEXT)
    settings = dataclasses.replace(SETTINGS, size=None, test_size=300, pool=1)
    columns = [Column(0, -1), Column(0, 1)]
    parts = lacim_pacs.load_parts(settings, lambda _: whole, "30 degrees", columns)
    train, choice = (np.asarray(part.domains) for part in (parts.train, parts.choice))
    assert set(train[:, 0]) == set(choice[:, 0]) == {0, 1, 2}
    assert set(train[:, 1]) == {0, 2}
    assert set(choice[:, 1]) == {1}
    assert set(np.asarray(parts.test.domains).ravel()) == {3}
    seen = [{im.tobytes() for im in np.asarray(p.images[:, 0])} for p in parts]
    assert [len(own) for own in seen] == [len(p.labels) for p in parts]
    for own, other in itertools.combinations(seen, 2):
        assert not own & other


def test_pacs_is_read_from_its_folders_and_asked_for_where_it_is_not(tmp_path):
    context = CONTEXT._replace(data_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match="PACS"):
        lacim_pacs.read_images("PACS", context)
    for domain, kind in itertools.product(("photo", "sketch"), ("dog", "house")):
        folder = tmp_path / "PACS" / domain / kind
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8), (255, 0, 0)).save(folder / "1.png")
    found = lacim_pacs.read_images("PACS", context)
    assert found.images.shape == (4, 64, 64, 3)
    assert found.domain_names == ("photo", "sketch")


def test_methods_see_principal_components_that_only_training_features_decide(monkeypatch):
    generator = np.random.default_rng(0)
    mixing = generator.normal(size=(6, 6))

    def features(images, resolution, bar):
        assert (images.dtype, resolution) == (np.uint8, 224)
        return (images.reshape(len(images), -1)[:, :6] @ mixing).astype(np.float32)

    monkeypatch.setattr(lacim_pacs, "frozen_features", features)
    settings = dataclasses.replace(SETTINGS, data="PACS", resolution=224, components=3, size=None)
    pixels = generator.integers(0, 256, (400, 2, 2, 3), np.uint8)
    whole = from_domains(
        pixels, np.arange(400) % 2, np.arange(400) % 4 // 2, class_names=("a", "b"),
        domain_names=("one", "two"),
    )  # fmt: skip
    monkeypatch.setattr(lacim_pacs, "read_images", lambda data, context: whole)
    seen = lacim_pacs.read_inputs(settings, CONTEXT)
    parts = lacim_pacs.load_parts(settings, lambda _: seen, "two", [Column(0, -1)])
    train, test = (np.asarray(part.images[:, 0], float) for part in (parts.train, parts.test))
    assert train.shape[1:] == test.shape[1:] == (3,)
    np.testing.assert_allclose(train.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(train, rowvar=False), np.eye(3), atol=1e-4)
    moved = seen._replace(images=np.where(seen.domains[:, None] == 1, 99.0, seen.images))
    again = lacim_pacs.load_parts(settings, lambda _: moved, "two", [Column(0, -1)])
    np.testing.assert_array_equal(again.train.images, parts.train.images)


def test_principal_components_are_the_left_singular_vectors_of_the_training_features():
    generator = np.random.default_rng(0)
    train, other = (generator.normal(size=(n, 6)) * np.arange(6, 0, -1) for n in (200, 30))
    part = Examples(train.astype(np.float32), np.zeros(200, int), np.zeros(200, int))
    parts = Parts(part, *[part._replace(images=other.astype(np.float32))] * 3)
    found = lacim_pacs.principal_components(parts, 3)
    mean = train.mean(0)
    left, values, right = np.linalg.svd(train - mean, full_matrices=False)
    due = np.sqrt(199) * left[:, :3]
    signs = np.sign((due * np.asarray(found.train.images)).sum(0))
    np.testing.assert_allclose(found.train.images, due * signs, atol=1e-4)
    due = np.sqrt(199) * (other - mean) @ right[:3].T / values[:3]
    np.testing.assert_allclose(found.test.images, due * signs, atol=1e-4)


def test_real_values_have_a_gaussian_likelihood_in_every_generative_model():
    settings = dataclasses.replace(SETTINGS, noise_scale=0.5)
    sizes = settings.sizes((3,), num_domains=2, num_classes=2)
    models = {name: method.build(sizes) for name, method in METHODS.items()}
    likelihoods = {n: m.likelihood for n, m in models.items() if hasattr(m, "likelihood")}
    assert set(likelihoods) > {"LaCIM", "Pool-LaCIM", "DIVA", "CSG", "iVAE"}
    assert set(likelihoods.values()) == {gaussian_likelihood(0.5)}


def _record(method, domain, seed, *, rate, validation, test):
    return Record(
        method=method,
        setting={"test_domain": domain, "learning_rate": rate},
        seed=seed,
        metrics={"validation_accuracy": validation, "test_accuracy": test},
        wall_time=0.0,
    )


def test_each_domain_has_its_own_choice_and_the_mean_is_over_domains(tmp_path):
    records = [
        _record("ERM", domain, seed, rate=rate, validation=validation, test=test)
        for seed in (0, 1)
        for domain, rate, validation, test in [
            ("photo", 0.1, 0.9, 0.5),
            ("photo", 0.2, 0.8, 0.99),
            ("sketch", 0.1, 0.7, 0.98),
            ("sketch", 0.2, 0.8, 0.3 + 0.2 * seed),
        ]
    ]
    table = lacim_pacs.tables(records)
    assert "chosen by training domains" in table
    row = next(line for line in table.splitlines() if line.startswith("| ERM"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:4] == ["ERM", "50.00 ± 0.00", "40.00 ± 14.14", "45.00 ± 7.07"]
    assert cells[4:] == ["0.1 (edge), 0.2 (edge)"]
    last = [cell.strip() for cell in table.splitlines()[-1].strip("|").split("|")]
    assert last == ["ERM", "2", "0.1, 0.2", ""]
    (path,) = lacim_pacs.plots(records, tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")
