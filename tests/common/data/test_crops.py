"""Crops of images of any size: where they lie, how large they are, how often they are mirrored."""

import numpy as np
import pytest

from common.data.crops import central_crop, random_resized_crop

RAMP = np.stack(np.broadcast_arrays(*np.ogrid[0:120:2, 0:200:2], 7), axis=-1).astype(np.uint8)
"""60 high and 100 wide; the first channel is twice the row, the second twice the column."""


def drawn(n, image=RAMP, size=8, **options):
    generator = np.random.default_rng(0)
    return np.stack([random_resized_crop(image, size, generator, **options) for _ in range(n)])


def test_the_central_crop_is_central_and_scaled():
    crop = central_crop(RAMP, 40, share=2 / 3)  # 40 of 60 rows: no scaling
    np.testing.assert_array_equal(crop, RAMP[10:50, 30:70])
    small = central_crop(RAMP, 10, share=2 / 3).astype(float)
    # Of a linear image any average is the value at the centre.
    np.testing.assert_allclose(small[:, :, 0].mean(), RAMP[10:50, :, 0].mean(), atol=1)
    np.testing.assert_allclose(np.diff(small[1:-1, 5, 0]), 8, atol=1)
    assert central_crop(RAMP, 224).shape == (224, 224, 3)


def test_random_crops_are_of_the_shares_and_ratios_asked_for():
    crops = drawn(400, area=(0.25, 0.5), aspect=(0.5, 2.0)).astype(float)
    # The ramps' extent tells the rectangle's: (size - 1) steps of side / size pixels, by two.
    height = np.ptp(crops[..., 0], axis=(1, 2)) * 8 / 7 / 2
    width = np.ptp(crops[..., 1], axis=(1, 2)) * 8 / 7 / 2
    share = height * width / (60 * 100)
    assert 0.2 < share.min() < 0.28
    assert 0.45 < share.max() < 0.56
    # Wide ones fit more often into a wide image.
    ratio = width / height
    assert 0.45 < ratio.min() < 0.7
    assert 1.8 < ratio.max() < 2.2


def test_half_of_the_crops_are_mirrored():
    columns = drawn(400)[:, 4, :, 1].astype(int)
    mirrored = columns[:, 0] > columns[:, -1]
    assert 150 < mirrored.sum() < 250


def test_the_same_generator_draws_the_same_crops():
    np.testing.assert_array_equal(drawn(3), drawn(3))
    assert not np.array_equal(drawn(2)[0], drawn(2)[1])


def test_what_never_fits_is_cropped_at_the_centre():
    strip = RAMP[:2]  # 2 by 100: no rectangle of the whole area is nearly square
    for crop in drawn(4, image=strip, area=(1.0, 1.0)):
        expected = central_crop(strip, 8)
        assert any(np.array_equal(crop, e) for e in (expected, expected[:, ::-1]))


def test_grey_images_keep_their_channel():
    assert drawn(2, image=RAMP[..., :1]).shape == (2, 8, 8, 1)
    np.testing.assert_array_equal(
        central_crop(RAMP[..., :1], 40, share=2 / 3)[..., 0], RAMP[10:50, 30:70, 0]
    )


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: central_crop(RAMP / 255, 8), "uint8.*float64"),
        (lambda: central_crop(RAMP[..., 0], 8), r"\[height, width, channels\]"),
        (lambda: central_crop(RAMP, 0), "at least 1 pixel, got 0"),
        (lambda: central_crop(RAMP, 8, share=1.5), "share must .* got 1.5"),
        (lambda: drawn(1, area=(0.5, 0.1)), "lower bound first"),
        (lambda: drawn(1, aspect=(0.0, 1.0)), "aspect above 0"),
    ],
)
def test_refusals(call, match):
    with pytest.raises(ValueError, match=match):
        call()
