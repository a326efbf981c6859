"""Aspect-ratio buckets: shapes kept, size conditioning from the real crop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny

from b4m_core.buckets import Bucket, buckets, crop_to, nearest_bucket
from b4m_core.pictures import Picture


@pytest.mark.parametrize("resolution", [64, 128, 192, 512, 768, 1024])
def test_every_bucket_has_about_the_chosen_area_and_whole_latents(resolution: int) -> None:
    step = 64 if resolution >= 512 else 32
    found = buckets(resolution)
    assert found[0] == Bucket(resolution, resolution) and len(set(found)) == len(found)
    for height, width in found:
        assert height % 32 == width % 32 == 0 and height * width <= resolution**2
        assert height * width > resolution**2 - step * max(height, width)
        assert max(height, width) / min(height, width) <= 4


@pytest.mark.parametrize("resolution", [512, 768, 1024])
def test_every_bucket_also_exists_lying_on_its_side_or_nearly(resolution: int) -> None:
    shapes = sorted(math.log(width / height) for height, width in buckets(resolution))
    assert min(shapes) < -1 and max(shapes) > 1


@pytest.mark.parametrize(
    "size,resolution,expected", [((3000, 3000), 512, (512, 512)), ((100, 100), 1024, (1024, 1024)), ((64, 64), 64, (64, 64))]
)
def test_a_square_picture_goes_into_the_square_bucket(size: tuple[int, int], resolution: int, expected: tuple[int, int]) -> None:
    assert nearest_bucket(*size, resolution) == expected


@pytest.mark.parametrize("height,width", [(400, 300), (1000, 300), (300, 1100), (33, 120), (768, 1344), (701, 699)])
def test_the_nearest_bucket_is_the_one_that_cuts_least_away(height: int, width: int) -> None:
    """Least cut away, computed from areas and not from the logarithms of the shapes."""

    def kept(bucket: Bucket) -> float:
        scale = max(bucket.height / height, bucket.width / width)
        return bucket.height * bucket.width / (height * scale * width * scale)

    chosen = nearest_bucket(height, width, 512)
    assert kept(chosen) == pytest.approx(max(map(kept, buckets(512))))


def test_the_crop_is_the_middle_of_the_picture_resized_to_cover() -> None:
    pixels = np.zeros((64, 256, 3), dtype=np.uint8)
    pixels[:, 96:160] = 255
    crop = crop_to(Picture("a", pixels, ""), Bucket(64, 64))
    assert crop.pixels.shape == (64, 64, 3) and (crop.pixels == 255).all()
    assert crop.geometry == (64, 256, 0, 96, 64, 64)


def test_size_conditioning_tells_the_real_size_and_the_real_crop() -> None:
    """A 300 x 400 photo for a 512 x 512 bucket: resized to 512 x 683, 85 columns cut off on the left."""
    crop = crop_to(Picture("a", np.zeros((300, 400, 3), dtype=np.uint8), ""), Bucket(512, 512))
    assert crop.geometry == (300, 400, 0, 85, 512, 512)
    upright = crop_to(Picture("a", np.zeros((400, 300, 3), dtype=np.uint8), ""), Bucket(512, 512))
    assert upright.geometry == (400, 300, 85, 0, 512, 512)


def test_a_picture_of_the_bucket_s_own_size_is_not_touched() -> None:
    picture = tiny.picture(3, height=64, width=128)
    crop = crop_to(picture, Bucket(64, 128))
    assert np.array_equal(crop.pixels, picture.pixels) and crop.geometry == (64, 128, 0, 0, 64, 128) and crop.mask is None


def test_the_mask_is_cut_as_the_picture_is() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 90, 1), dtype=np.uint8).repeat(3, 2)
    crop = crop_to(Picture("a", pixels, "", pixels[..., 0].copy()), Bucket(64, 64))
    assert crop.mask is not None and np.array_equal(crop.mask, crop.pixels[..., 0])


@pytest.mark.parametrize("height,width", [(32, 128), (128, 32), (33, 127), (4000, 3001), (65, 64), (37, 53)])
def test_pictures_of_any_size_fill_their_bucket_without_a_border(height: int, width: int) -> None:
    bucket = nearest_bucket(height, width, 64)
    crop = crop_to(Picture("a", np.full((height, width, 3), 255, dtype=np.uint8), ""), bucket)
    assert crop.pixels.shape == (*bucket, 3) and crop.pixels.min() == 255
    original_height, original_width, top, left, target_height, target_width = crop.geometry
    assert (original_height, original_width, target_height, target_width) == (height, width, *bucket) and min(top, left) == 0
