"""Every kind of file that an artist has is read, or named with what to do, or is litter; one rule lists and reads."""

from __future__ import annotations

import builtins
import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from b4m_core import B4MError, picture_files, pictures
from b4m_core.buckets import Bucket, crop_to
from b4m_core.picture_files import MOST_PIXELS, NotRead, open_picture, to_rgb
from b4m_core.picture_kinds import holds_pictures, is_litter, looks_like_picture, picture_folders
from b4m_core.pictures import MOST_KEPT, PictureSet, load_folder
from benchmarks.inputs import kinds


def load(folder: Path, **changes: object) -> PictureSet:
    return load_folder(folder, **{"trigger": "snq", "class_word": "bear", "pattern": "a {trigger} {class}", **changes})  # type: ignore[arg-type]


def rgb(file: Path, most: int = MOST_KEPT) -> np.ndarray:
    return to_rgb(open_picture(file, most))[0]


@pytest.mark.parametrize("kind", kinds.KINDS, ids=lambda kind: f"{kind.title} as {kind.file}")
def test_a_file_of_every_kind_is_read_or_named_or_litter(kind: kinds.Kind, tmp_path: Path) -> None:
    if kind.needs and importlib.util.find_spec(kind.needs) is None:
        pytest.skip(f"{kind.needs} is not installed")
    file = kinds.write(kind, tmp_path)
    Image.fromarray(kinds.pixels(seed=9)).save(tmp_path / "good.png")
    found = load(tmp_path)
    names = [picture.name for picture in found.pictures]
    notes = " ".join(found.notes)
    assert "good.png" in names
    assert (file.name in names) == (kind.becomes == kinds.READ)
    assert (kind.file in notes) or kind.becomes != kinds.NAMED, notes
    assert not notes or kind.becomes != kinds.IGNORED
    (tmp_path / "good.png").unlink()
    assert holds_pictures(tmp_path) == (kind.becomes == kinds.READ or kind.becomes == kinds.NAMED and kind.file != "a.xyz")


def test_a_heic_without_its_library_is_named_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *more: object, **options: object) -> object:
        if name.startswith(("pillow_heif", "pillow_jxl")):
            raise ImportError(name)
        return original(name, *more, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(60))
    (tmp_path / "b.jxl").write_bytes(b"\xff\x0a" + bytes(60))
    sentence = "a.heic was left out: it is a HEIC picture, and pillow-heif is not installed.*b.jxl.*pillow-jxl-plugin"
    with pytest.raises(B4MError, match=sentence):
        load(tmp_path)


def test_colours_of_a_wide_profile_become_srgb(tmp_path: Path) -> None:
    """By a profile, by a camera's word for Adobe RGB, and by the primaries of a PNG: green is greener than sRGB's."""
    plain = kinds.pixels()
    greener = kinds.png(plain, extra=kinds._P3)
    (tmp_path / "p3.png").write_bytes(greener)
    (tmp_path / "adobe.jpg").write_bytes(kinds.jpeg_from_camera(b"R03"))
    (tmp_path / "srgb.jpg").write_bytes(kinds.jpeg_from_camera(b"R98"))
    spread = {name: float(rgb(tmp_path / name).std()) for name in ("p3.png", "adobe.jpg", "srgb.jpg")}
    assert spread["p3.png"] > plain.std() * 1.05 and spread["adobe.jpg"] > spread["srgb.jpg"] * 1.05
    grey = np.full((64, 64, 3), 128, dtype=np.uint8)
    (tmp_path / "grey.png").write_bytes(kinds.png(grey, extra=kinds._P3))
    assert np.abs(rgb(tmp_path / "grey.png").astype(int) - 128).max() <= 1  # white and grey stay


def test_a_profile_is_followed_as_littlecms_does_and_srgb_s_own_leaves_every_number(tmp_path: Path) -> None:
    picture = Image.fromarray(kinds.pixels())
    other = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    picture.save(tmp_path / "own.png", icc_profile=kinds.profile())
    picture.save(tmp_path / "broken.png", icc_profile=other)
    assert np.array_equal(rgb(tmp_path / "own.png"), kinds.pixels())
    opened = open_picture(tmp_path / "broken.png", MOST_KEPT)
    assert np.array_equal(to_rgb(opened)[0], kinds.pixels()) and "profile" in opened.notes[0]


def test_a_grey_photo_with_the_profile_of_a_camera_keeps_its_greys(tmp_path: Path) -> None:
    grey = kinds.pixels()[..., 0]
    Image.fromarray(grey).save(tmp_path / "a.png", icc_profile=kinds.profile())
    opened = open_picture(tmp_path / "a.png", MOST_KEPT)
    assert np.array_equal(to_rgb(opened)[0], np.stack([grey] * 3, axis=-1)) and not opened.notes


def test_a_large_picture_that_is_transparent_everywhere_keeps_its_colours(tmp_path: Path) -> None:
    Image.new("RGBA", (400, 400), (200, 100, 50, 0)).save(tmp_path / "a.png")
    pixels, alpha = to_rgb(open_picture(tmp_path / "a.png", 10_000))
    assert alpha is None and pixels.shape == (100, 100, 3) and (pixels == (200, 100, 50)).all()


def test_a_linear_png_is_brightened_to_srgb(tmp_path: Path) -> None:
    import struct

    linear = np.full((64, 64, 3), 55, dtype=np.uint8)  # 0.2157 of the light
    (tmp_path / "a.png").write_bytes(kinds.png(linear, extra=kinds.chunk(b"gAMA", struct.pack(">I", 100_000))))
    assert np.abs(rgb(tmp_path / "a.png").astype(int) - 128).max() <= 1


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
@pytest.mark.parametrize("first_empty", [True, False])
def test_of_an_animation_a_frame_that_shows_something_is_taken_and_said(kind: str, first_empty: bool, tmp_path: Path) -> None:
    (tmp_path / f"a.{kind.lower()}").write_bytes(kinds.animation(kind, first_empty=first_empty))
    found = load(tmp_path)
    assert found.pictures[0].pixels.std() > 20
    which = "frame" if first_empty else "the first is used"
    assert "it is an animation of" in found.notes[0] and which in found.notes[0]


def test_sixteen_bits_keep_their_values(tmp_path: Path) -> None:
    (tmp_path / "colour.png").write_bytes(kinds.png(kinds.pixels(), depth=16))
    kinds.sixteen_bits(kinds.pixels()[..., 0]).save(tmp_path / "grey.png")
    assert np.array_equal(rgb(tmp_path / "colour.png"), kinds.pixels())
    assert np.array_equal(rgb(tmp_path / "grey.png")[..., 1], kinds.pixels()[..., 0])


def test_a_large_picture_is_kept_smaller_with_its_own_size_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By strips, equal to a reduction in one piece; the true size goes to the network's conditioning."""
    coarse = np.random.default_rng(0).integers(0, 256, (30, 40, 4), dtype=np.uint8)
    large = Image.fromarray(coarse).resize((800, 600), Image.Resampling.BICUBIC)
    large.save(tmp_path / "a.png")
    large.convert("RGB").save(tmp_path / "b.jpg", quality=95)
    monkeypatch.setattr(picture_files, "_STRIP_PIXELS", 10_000)
    small = open_picture(tmp_path / "a.png", 30_000).image
    assert small.size == (200, 150) and np.abs(np.asarray(small).astype(int) - np.asarray(large.reduce(4)).astype(int)).max() <= 1
    monkeypatch.setattr(pictures, "MOST_KEPT", 30_000)
    monkeypatch.setattr(pictures, "LEAST_KEPT", 1_000)
    for picture in load(tmp_path).pictures:
        assert picture.pixels.shape[0] * picture.pixels.shape[1] <= 30_000 and picture.original == (600, 800)
        assert crop_to(picture, Bucket(64, 64)).geometry[:2] == (600, 800)


def test_what_is_kept_of_many_pictures_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        Image.fromarray(kinds.pixels(seed=number)).save(tmp_path / f"{number}.png")
    monkeypatch.setattr(pictures, "LEAST_KEPT", 1_000)
    monkeypatch.setattr(pictures, "MOST_TOGETHER", 8_000)
    assert sum(picture.pixels.shape[0] * picture.pixels.shape[1] for picture in load(tmp_path).pictures) <= 8_000


def test_a_photo_of_two_hundred_megapixels_is_read(tmp_path: Path) -> None:
    Image.new("L", (16_320, 12_240), 90).save(tmp_path / "phone.jpg", quality=30)
    assert 16_320 * 12_240 <= MOST_PIXELS
    assert [picture.original for picture in load(tmp_path).pictures] == [(12_240, 16_320)]


def test_pillow_s_own_limits_are_as_they_were_afterwards(tmp_path: Path) -> None:
    before = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    for kind in kinds.KINDS[:3] + kinds.KINDS[-20:]:
        if not kind.needs:
            try:
                open_picture(kinds.write(kind, tmp_path), MOST_KEPT)
            except NotRead:
                pass
    assert before == (Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)


def test_a_pipe_that_is_called_a_picture_is_named_and_nobody_waits_for_it(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(B4MError, match="a.png was left out: it is a pipe, not a file"):
        load(tmp_path)


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    os.symlink(tmp_path / "gone.png", tmp_path / "a.png")
    with pytest.raises(B4MError, match="a.png was left out: it is a link to nothing"):
        load(tmp_path)


@pytest.mark.parametrize("name", "@eaDir __MACOSX .thumbnails $RECYCLE.BIN lost+found #recycle".split())
def test_litter_never_becomes_a_set(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    Image.fromarray(kinds.pixels()).save(tmp_path / name / "SYNOPHOTO_THUMB_M.jpg")
    assert is_litter(name, folder=True) and picture_folders(tmp_path) == []
    assert not looks_like_picture(tmp_path / "._a.png") and not looks_like_picture(tmp_path / "Thumbs.db")


def test_names_that_no_terminal_can_print_are_shown_in_words(tmp_path: Path) -> None:
    for name in ("line\nbreak.png", "x" * 150 + ".png", os.fsdecode(b"\xff\xfe.png")):
        (tmp_path / name).write_bytes(b"no")
    Image.fromarray(kinds.pixels()).save(tmp_path / "good.png")
    notes = "\n".join(load(tmp_path).notes)
    assert len(notes.splitlines()) == 3 and notes.encode() and all(len(line) < 200 for line in notes.splitlines())


def test_pictures_in_folders_inside_and_films_of_live_photos_are_said(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "more"):
        folder.mkdir(exist_ok=True)
        Image.fromarray(kinds.pixels()).save(folder / "IMG_1.JPG")
    (tmp_path / "IMG_1.MOV").write_bytes(b"film")
    notes = " ".join(load(tmp_path).notes)
    assert "IMG_1.MOV. It is the film of a live photo." in notes and "folders inside" in notes and "more" in notes
