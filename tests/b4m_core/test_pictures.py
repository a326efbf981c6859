"""Pictures as artists have them: every mode and size, good ones kept and bad ones named."""

from __future__ import annotations

import errno
import io
import os
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from b4m_core import B4MError
from b4m_core.pictures import Picture, PictureSet, fill_caption, from_arrays, load_folder

PATTERN = "a photo of a {trigger} {class}"


def colours(height: int = 40, width: int = 48, seed: int = 0) -> np.ndarray:
    """Blocks of 8 x 8 pixels, each of one colour, so that JPEG keeps them."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)


def save(folder: Path, name: str, image: Image.Image | np.ndarray | None = None, **options: object) -> Path:
    picture = Image.fromarray(colours()) if image is None else image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(folder / name, **options)  # type: ignore[arg-type]
    return folder / name


def load(folder: Path, **changes: object) -> PictureSet:
    return load_folder(folder, **{"trigger": "snq", "class_word": "bear", "pattern": PATTERN, **changes})  # type: ignore[arg-type]


def only(folder: Path, **changes: object) -> Picture:
    pictures = load(folder, **changes).pictures
    assert len(pictures) == 1
    return pictures[0]


def near(actual: np.ndarray, expected: np.ndarray, most: float = 3) -> bool:
    return actual.shape == expected.shape and float(np.abs(actual.astype(float) - expected.astype(float)).mean()) <= most


def test_a_png_is_read_pixel_for_pixel(tmp_path: Path) -> None:
    save(tmp_path, "a.png")
    picture = only(tmp_path)
    assert np.array_equal(picture.pixels, colours()) and picture.pixels.dtype == np.uint8 and picture.mask is None
    assert picture.name == "a.png" and picture.caption == "a photo of a snq bear"


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "webp", "bmp", "tif", "tiff", "gif", "PNG", "JPG"])
def test_every_usual_file_type_is_read(suffix: str, tmp_path: Path) -> None:
    save(tmp_path, f"a.{suffix}")
    assert near(only(tmp_path).pixels, colours(), 12)


ORIENTED = {
    1: lambda p: p, 2: np.fliplr, 3: lambda p: np.rot90(p, 2), 4: np.flipud,
    5: lambda p: p.transpose(1, 0, 2), 6: lambda p: np.rot90(p, 1),
    7: lambda p: np.rot90(p, 2).transpose(1, 0, 2), 8: lambda p: np.rot90(p, 3),
}  # fmt: skip


@pytest.mark.parametrize("orientation", ORIENTED)
def test_a_photo_is_turned_upright_by_its_exif_orientation(orientation: int, tmp_path: Path) -> None:
    """Stored so that the viewer's turn gives the original back: numpy does the inverse of what the tag asks for."""
    exif = Image.Exif()
    exif[274] = orientation
    stored = np.ascontiguousarray(ORIENTED[orientation](colours()))
    save(tmp_path, "a.png", stored, exif=exif)
    assert np.array_equal(only(tmp_path).pixels, colours())


def test_a_grey_picture_becomes_three_equal_channels(tmp_path: Path) -> None:
    grey = colours()[..., 0]
    save(tmp_path, "a.png", grey)
    assert np.array_equal(only(tmp_path).pixels, np.stack([grey] * 3, axis=-1))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_sixteen_bit_grey_picture_keeps_its_greys(suffix: str, tmp_path: Path) -> None:
    grey = colours()[..., 0]
    save(tmp_path, f"a.{suffix}", Image.fromarray(grey.astype(np.uint16) * 257))
    assert np.array_equal(only(tmp_path).pixels[..., 1], grey)


def test_a_dark_sixteen_bit_picture_stays_dark(tmp_path: Path) -> None:
    save(tmp_path, "a.png", Image.fromarray(np.full((40, 40), 200, dtype=np.uint16)))
    assert only(tmp_path).pixels.max() <= 1


def test_a_floating_point_tiff_from_zero_to_one_is_not_black(tmp_path: Path) -> None:
    save(tmp_path, "a.tif", Image.fromarray(np.linspace(0, 1, 1600, dtype=np.float32).reshape(40, 40)))
    assert only(tmp_path).pixels.max() == 255 and abs(float(only(tmp_path).pixels.mean()) - 127.5) < 2


def test_transparency_is_laid_on_white_and_becomes_the_mask(tmp_path: Path) -> None:
    alpha = np.zeros((40, 48), dtype=np.uint8)
    alpha[:, 24:] = 255
    save(tmp_path, "a.png", np.dstack([colours(), alpha]))
    picture = only(tmp_path)
    assert (picture.pixels[:, :24] == 255).all() and np.array_equal(picture.pixels[:, 24:], colours()[:, 24:])
    assert np.array_equal(picture.mask, alpha)


def test_an_alpha_channel_that_is_all_opaque_is_no_mask(tmp_path: Path) -> None:
    save(tmp_path, "a.png", np.dstack([colours(), np.full((40, 48), 255, dtype=np.uint8)]))
    assert only(tmp_path).mask is None


def test_an_empty_alpha_channel_is_not_used_and_named(tmp_path: Path) -> None:
    save(tmp_path, "a.png", np.dstack([colours(), np.zeros((40, 48), dtype=np.uint8)]))
    pictures = load(tmp_path)
    assert pictures.pictures[0].mask is None and pictures.notes == (
        "a.png: it is transparent everywhere, so its transparency was not used.",
    )
    assert np.array_equal(pictures.pictures[0].pixels, colours())


def test_masks_are_left_out_when_they_are_not_asked_for(tmp_path: Path) -> None:
    alpha = np.zeros((40, 48), dtype=np.uint8)
    alpha[:20] = 255
    save(tmp_path, "a.png", np.dstack([colours(), alpha]))
    assert only(tmp_path, use_masks=False).mask is None


def test_a_palette_with_a_transparent_colour_is_read(tmp_path: Path) -> None:
    image = Image.fromarray(colours()).quantize(16)
    opaque = np.asarray(image) != 3
    save(tmp_path, "a.png", image, transparency=3)
    picture = only(tmp_path)
    assert np.array_equal(picture.mask == 255, opaque) and (picture.pixels[~opaque] == 255).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "YCbCr", "HSV", "LAB", "I", "F"])
def test_a_picture_of_any_mode_becomes_three_channels_of_eight_bits(mode: str) -> None:
    from b4m_core.picture_files import Opened, to_rgb, with_eight_bits

    image = Image.fromarray(colours()).convert(mode)
    if mode in "IF":  # whole numbers of 16 bits, floating point from 0 to 1
        image = Image.fromarray((np.asarray(image) * (257 if mode == "I" else 1 / 255)).astype(np.int32 if mode == "I" else np.float32))
    pixels, _ = to_rgb(Opened(with_eight_bits(image, 10_000), (40, 48), {}))
    assert pixels.shape == (40, 48, 3) and pixels.dtype == np.uint8 and pixels.std() > 10


def test_a_cmyk_jpeg_keeps_its_colours(tmp_path: Path) -> None:
    save(tmp_path, "a.jpg", Image.fromarray(colours()).convert("CMYK"), quality=98)
    assert near(only(tmp_path).pixels, colours(), 6)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_the_first_frame_of_an_animated_picture_counts(suffix: str, tmp_path: Path) -> None:
    frames = [Image.fromarray(colours(seed=seed)) for seed in range(3)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **({"lossless": True} if suffix == "webp" else {}))
    assert near(only(tmp_path).pixels, colours(seed=0), 12)


def test_a_corrupt_picture_among_good_ones_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    save(tmp_path, "a.png")
    save(tmp_path, "d.jpg", colours(seed=1))
    whole = save(tmp_path, "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "c.jpg").write_bytes(b"this is no picture")
    (tmp_path / "e.webp").write_bytes(b"")
    pictures = load(tmp_path)
    assert [picture.name for picture in pictures.pictures] == ["a.png", "d.jpg"]
    assert [note.split()[0] for note in pictures.notes] == ["b.png", "c.jpg", "e.webp"]
    assert all("was left out: it is" in note and note.endswith(".") for note in pictures.notes)


def test_a_folder_with_the_ending_of_a_picture_is_named_and_left_out(tmp_path: Path) -> None:
    save(tmp_path, "a.png")
    (tmp_path / "b.png").mkdir()
    pictures = load(tmp_path)
    assert len(pictures.pictures) == 1 and pictures.notes[0].startswith("b.png was left out")


@pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL.*")
@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "tif", "webp", "bmp"])
def test_two_hundred_damaged_copies_of_a_picture_never_break_the_reader(suffix: str, tmp_path: Path) -> None:
    """Bytes changed, cut and inserted at random: each copy is a picture or has a note."""
    buffer = io.BytesIO()
    Image.fromarray(colours()).save(buffer, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()))
    raw, draw = buffer.getvalue(), random.Random(suffix)
    for number in range(200):
        damaged = bytearray(raw)
        for _ in range(draw.randint(1, 8)):
            place = draw.randrange(min(len(damaged), draw.choice((40, 200, 10**9))))
            damaged[place] = draw.randrange(256)
        if number % 3 == 0:
            del damaged[draw.randrange(len(damaged)) :]
        (tmp_path / f"{number:03}.{suffix}").write_bytes(damaged)
    save(tmp_path, "good.png")
    pictures = load(tmp_path)
    left_out = [note for note in pictures.notes if "was left out" in note]
    assert len(pictures.pictures) + len(left_out) == 201 and pictures.pictures[-1].name == "good.png"


def test_a_folder_without_pictures_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        B4MError, match="There are no pictures to train on. The folder .* holds no pictures. Add at least one PNG, JPEG or WebP picture."
    ):
        load(tmp_path)


def test_a_folder_that_is_gone_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(B4MError, match="The folder gone is not there any more: choose another one"):
        load(tmp_path / "gone")


def test_a_folder_with_bad_pictures_only_says_why_each_is_bad(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(B4MError, match="no pictures to train on.*a.png was left out"):
        load(tmp_path)


def test_one_picture_is_a_set_of_its_own(tmp_path: Path) -> None:
    save(tmp_path, "a.png")
    assert len(load(tmp_path).pictures) == 1


def test_three_hundred_pictures_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for number in random.Random(0).sample(range(300), 300):
        save(tmp_path, f"{number:03}.png", np.full((32, 32, 3), number % 256, dtype=np.uint8))
    pictures = load(tmp_path).pictures
    assert [picture.name for picture in pictures] == [f"{number:03}.png" for number in range(300)]


def test_a_picture_of_32_by_20000_pixels_is_named_and_left_out(tmp_path: Path) -> None:
    save(tmp_path, "long.png", np.zeros((20_000, 32, 3), dtype=np.uint8))
    save(tmp_path, "good.png")
    pictures = load(tmp_path)
    assert [picture.name for picture in pictures.pictures] == ["good.png"]
    assert pictures.notes == ("long.png was left out: at 32 x 20000 pixels it is too long and narrow (more than 4 to 1): cut it.",)


def test_a_picture_of_a_few_pixels_is_named_and_left_out(tmp_path: Path) -> None:
    save(tmp_path, "dot.png", np.zeros((20, 31, 3), dtype=np.uint8))
    save(tmp_path, "good.png")
    assert load(tmp_path).notes == ("dot.png was left out: at 31 x 20 pixels it is too small: use a larger one.",)


def test_a_decompression_bomb_is_named_and_never_unpacked(tmp_path: Path) -> None:
    """20,000 x 20,000 pixels in a file of a few bytes: only its header is read."""
    import struct
    import zlib

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d))
        for n, d in ((b"IHDR", header), (b"IDAT", b""), (b"IEND", b""))
    )
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    save(tmp_path, "good.png")
    pictures = load(tmp_path)
    assert pictures.notes == (
        "bomb.png was left out: it has more than 210 million pixels, the most that is read: make it smaller.",
    ) and len(pictures.pictures) == 1


OTHERWISE = 'Read as {}, since it is not UTF-8: a.txt. If "ein Bär" is not what it says, save it as UTF-8.'


@pytest.mark.parametrize(
    "raw,text,note",
    [
        ("ein Bär".encode(), "ein Bär", ""),
        ("ein Bär".encode("utf-8-sig"), "ein Bär", ""),
        ("ein Bär".encode("utf-16"), "ein Bär", ""),
        ("ein Bär".encode("utf-16-be").join([b"\xfe\xff", b""]), "ein Bär", ""),
        ("ein Bär".encode("utf-16-le"), "ein Bär", ""),
        ("ein Bär".encode("utf-32"), "ein Bär", ""),
        ("ein Bär".encode("cp1252"), "ein Bär", OTHERWISE.format("cp1252")),
        (b"  two\r\n lines\t and  spaces ", "two lines and spaces", ""),
        (b"a {trigger} in the snow", "a snq in the snow", ""),
        (b"a [trigger] in the {Class} snow", "a snq in the bear snow", ""),
        (b"zero\0byte", "zero byte", ""),
        (b"", "a photo of a snq bear", "The captions of these are empty: a.png. They get the node's."),
        (b" \r\n\t", "a photo of a snq bear", "The captions of these are empty: a.png. They get the node's."),
        (b"\xff\xfea", "a photo of a snq bear", "Not used, since it cannot be read as text: a.txt."),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\1\2\3\4\5\6", "a photo of a snq bear", "Not used, since it cannot be read as text: a.txt."),
        (b"x" * 200_000, "a photo of a snq bear", "a.txt was not used: it has more than 100,000 bytes, which no caption has."),
    ],
)
def test_a_caption_file_of_any_encoding_is_read(raw: bytes, text: str, note: str, tmp_path: Path) -> None:
    save(tmp_path, "a.png")
    (tmp_path / "a.txt").write_bytes(raw)
    pictures = load(tmp_path)
    assert pictures.pictures[0].caption == text
    about_trigger = () if "snq" in text else ("The trigger snq is in no caption, so it is not learned: write {trigger} into the captions.",)
    assert pictures.notes == (((note,) if note else ()) + about_trigger)


def test_the_pattern_is_filled_with_trigger_and_class_and_name() -> None:
    assert fill_caption("a {class} called {trigger}, {name}", "snq", "bear", "my_bear") == "a bear called snq, my bear"
    assert fill_caption("a photo of a {trigger} {class}", "", "bear", "x") == "a photo of a bear"
    assert fill_caption("{unknown} {0} %s", "a", "b", "c") == "{unknown} {0} %s"


def test_a_mask_file_beside_the_picture_is_its_mask_and_no_picture(tmp_path: Path) -> None:
    save(tmp_path, "a.png")
    mask = np.zeros((40, 48), dtype=np.uint8)
    mask[10:20, 10:20] = 255
    save(tmp_path, "a_mask.png", mask)
    picture = only(tmp_path)
    assert np.array_equal(picture.mask, mask)


def test_a_mask_file_wins_over_transparency_and_is_resized(tmp_path: Path) -> None:
    save(tmp_path, "a.png", np.dstack([colours(), np.full((40, 48), 7, dtype=np.uint8)]))
    save(tmp_path, "a_mask.png", np.repeat([[0, 255]], 20, axis=0).repeat(12, axis=1).astype(np.uint8))
    mask = only(tmp_path).mask
    assert mask is not None and mask.shape == (40, 48) and (mask[:, :22] == 0).all() and (mask[:, 26:] == 255).all()


def test_a_mask_without_its_picture_is_an_ordinary_picture(tmp_path: Path) -> None:
    save(tmp_path, "unmask_mask.png")
    assert only(tmp_path).name == "unmask_mask.png"


def test_a_damaged_mask_is_named_and_its_good_picture_stays(tmp_path: Path) -> None:
    save(tmp_path, "a.png")
    (tmp_path / "a_mask.png").write_bytes(b"no picture")
    pictures = load(tmp_path)
    assert [picture.name for picture in pictures.pictures] == ["a.png"]
    assert any("a_mask.png" in note for note in pictures.notes)


def test_a_picture_that_comes_twice_is_named(tmp_path: Path) -> None:
    save(tmp_path, "a.png")
    save(tmp_path, "b.png")
    pictures = load(tmp_path)
    assert len(pictures.pictures) == 2 and pictures.notes == ("b.png is the same picture as a.png; it counts twice.",)


def test_the_digest_follows_pixels_caption_and_mask_but_not_the_name() -> None:
    plain = Picture("a", colours(), "x")
    assert plain.digest() == Picture("b", colours().copy(), "x").digest()
    mask = np.full((40, 48), 9, dtype=np.uint8)
    others = [
        Picture("a", colours(seed=1), "x"),
        Picture("a", colours(), "y"),
        Picture("a", colours(), "x", mask),
        Picture("a", colours(), "x", mask + 1),
    ]
    others.append(Picture("a", colours().reshape(48, 40, 3), "x"))
    assert len({plain.digest(), *(other.digest() for other in others)}) == 6


def test_flips_mirror_pixels_and_masks_and_keep_captions() -> None:
    mask = np.zeros((40, 48), dtype=np.uint8)
    mask[:, :8] = 255
    flipped = PictureSet((Picture("a", colours(), "x", mask),)).with_flips().pictures
    assert len(flipped) == 2 and flipped[1].caption == "x"
    assert np.array_equal(flipped[1].pixels, np.fliplr(colours())) and np.array_equal(flipped[1].mask, np.fliplr(mask))


def test_prompts_come_once_each_and_in_order() -> None:
    pictures = PictureSet(tuple(Picture(str(k), colours(), caption) for k, caption in enumerate("bab")))
    assert pictures.prompts() == ("b", "a")


def test_pictures_from_the_graph_keep_their_values() -> None:
    images = [colours(seed=seed).astype(np.float32) / 255 for seed in range(2)]
    pictures = from_arrays(images, trigger="snq", class_word="bear", pattern="{trigger} {name}").pictures
    assert [picture.caption for picture in pictures] == ["snq picture 1", "snq picture 2"]
    assert all(np.array_equal(picture.pixels, colours(seed=seed)) for seed, picture in enumerate(pictures))


def test_one_mask_from_the_graph_serves_all_pictures_and_is_resized() -> None:
    images = [np.zeros((40, 48, 3), dtype=np.float32)] * 3
    half = np.zeros((20, 24), dtype=np.float32)
    half[:, 12:] = 1
    for picture in from_arrays(images, trigger="", class_word="", pattern="x", masks=[half]).pictures:
        assert picture.mask is not None and picture.mask.shape == (40, 48)
        assert (picture.mask[:, :20] == 0).all() and (picture.mask[:, 28:] == 255).all()


def test_an_unusable_picture_from_the_graph_is_named_by_its_number() -> None:
    images = [np.zeros((40, 40, 3), dtype=np.float32), np.zeros((40, 400, 3), dtype=np.float32)]
    pictures = from_arrays(images, trigger="", class_word="", pattern="x")
    assert len(pictures.pictures) == 1 and pictures.notes[0].startswith("image 2 was left out: at 400 x 40 pixels it is too long")


def test_no_pictures_from_the_graph_are_refused_in_a_sentence() -> None:
    with pytest.raises(B4MError, match="There are no pictures to train on"):
        from_arrays([], trigger="", class_word="", pattern="x")


def test_a_picture_and_a_folder_that_may_not_be_read_are_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, "good.png")
    save(tmp_path, "locked.png")
    opened = open

    def refuse(place: object, *more: object, **options: object) -> object:
        if "locked" in str(place):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(place, *more, **options)  # type: ignore[call-overload]

    monkeypatch.setattr("builtins.open", refuse)
    words = {"trigger": "x", "class_word": "", "pattern": "x"}
    assert load_folder(tmp_path, **words).notes == ("locked.png was left out: it cannot be read (Permission denied).",)

    def closed(folder: Path) -> object:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "iterdir", closed)
    with pytest.raises(B4MError, match="cannot be read .Permission denied.: check that it may be"):
        load_folder(tmp_path, **words)
