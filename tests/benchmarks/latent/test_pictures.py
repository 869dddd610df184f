"""Pictures of latents: what is counted is what the decoder shows, and pixels survive the file."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.harness.registry import Context
from benchmarks.latent import pictures as lacim_pictures
from benchmarks.latent.reports.pictures import EXCHANGES, SALIENCY, TRAVERSALS, picture_record
from benchmarks.latent.styles import pacs as lacim_pacs
from common.progress import Silent
from common.results.records import RecordWriter, read_records
from lacim_jax import MLP, LaCIM, MLPDecoder, MLPEncoder, gaussian_likelihood

SETTINGS = lacim_pictures.Settings(
    sets=(
        lacim_pictures.Pictures(
            data=lacim_pictures.DIGITS, source="digits8x8", pool=2, widths=(8,),
            convolutions=False, epochs=1,
        ),
    ),
    s_dim=3, v_dim=2, search_steps=2, tiles=3, judged=6,
)  # fmt: skip
CONTEXT = Context(seeds=(0,), data_dir=None, progress=Silent())


@pytest.fixture(scope="module")
def records():
    # optax.adam corrects its bias by decay ** count, float32 by int32.
    with jax.numpy_dtype_promotion("standard"):
        return list(lacim_pictures.run(SETTINGS, CONTEXT))


def test_three_networks_are_measured_and_three_pictures_kept(records):
    assert [r.method for r in records] == ["ERM", "judge", *["LaCIM"] * 4]
    shapes = {
        r.setting["picture"]: tuple(r.setting[k] for k in ("rows", "columns", "height", "channels"))
        for r in records
        if "picture" in r.setting
    }
    assert shapes == {
        TRAVERSALS: (4, 3, 4, 2),
        EXCHANGES: (4, 4, 4, 2),
        SALIENCY: (4, 3, 4, 2),
    }
    figures = records[2].metrics
    assert all(0 <= figures[f"label_{name}"] <= 1 for name in ("kept", "follows_s", "follows_v"))


def test_what_follows_s_and_what_follows_v_is_counted_apart():
    """A decoder that paints s on the first pixel and v on the second, and a judge of the first."""
    model = LaCIM(
        MLPEncoder(()), MLPDecoder((2, 1, 1), widths=()), MLP((2,)), num_domains=1,
        s_dim=1, v_dim=1, likelihood=gaussian_likelihood(1.0),
    )  # fmt: skip
    image = jnp.ones((1, 2, 1, 1))
    params = model.init(jax.random.key(0), image, jnp.zeros(1, jnp.int32))["params"]
    params["decoder"]["MLP_0"]["Dense_0"]["kernel"] = jnp.eye(2)
    labels = jnp.asarray([0, 1, 1, 0])
    latents = jnp.stack([labels.astype(jnp.float32), jnp.asarray([0.0, 0.0, 1.0, 1.0])], axis=-1)

    def of_pixel(pixel):
        def answer(judge, images):
            return (images[:, pixel, 0, 0] > 0.5).astype(jnp.int32)

        return lacim_pictures._follows(model, {"params": params}, latents, labels, None, answer)

    assert of_pixel(0) == {"label_follows_s": 1.0, "label_follows_v": 0.0, "label_kept": 1.0}
    # By v a label is told half of the time, and whose s it was never matters.
    assert of_pixel(1)["label_follows_v"] == 0.5
    assert of_pixel(1)["label_kept"] == 0.5


def test_classes_take_turns_among_the_images_shown():
    rows = lacim_pictures._mixed(jnp.asarray([0, 0, 0, 1, 2, 2]), 5)
    np.testing.assert_array_equal(rows, [0, 3, 4, 1, 5])


def test_styles_can_be_shown_too():
    shown = lacim_pictures.Pictures(
        data=lacim_pacs.ROTATED, test_domain="90 degrees", pool=4, widths=(8,), epochs=1
    )
    images = lacim_pictures.load_images(shown, CONTEXT, 0)
    assert (images.num_domains, images.num_classes) == (3, 10)
    assert images.train.images.shape[1:] == (7, 7, 1)
    assert set(np.asarray(images.test.domains)) == {3}


def test_pixels_are_kept_and_drawn(records, tmp_path):
    pixels = np.random.default_rng(0).uniform(size=(1, 2, 3, 4, 2))
    record = picture_record("LaCIM", {"data": "x"}, TRAVERSALS, pixels, 0)
    shape = [record.setting[k] for k in ("rows", "columns", "height", "width", "channels")]
    kept = np.asarray(record.curve["pixel"]).reshape(shape) / 255
    np.testing.assert_allclose(kept, pixels, atol=0.5 / 255)

    writer = RecordWriter(tmp_path / "records.jsonl", origin={"run": "1"})
    for each in records:
        writer.write(each)
    found = read_records(tmp_path / "records.jsonl")
    assert "coloured digits" in lacim_pictures.tables(found)
    two = [*found, *(dataclasses.replace(r, setting={**r.setting, "data": "y"}) for r in found)]
    paths = lacim_pictures.plots(two, tmp_path)
    assert [path.name for path in paths] == ["coloured_digits.png", "y.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
