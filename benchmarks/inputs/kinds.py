"""Files of every kind, made here: pictures that are read, pictures that are named, litter that is ignored."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

READ, NAMED, IGNORED = "read", "named", "ignored"


@dataclass(frozen=True)
class Kind:
    """A kind of file: what people call it, the name of an example, its bytes, and what becomes of it.

    ``needs`` is a library beside Pillow without which it is named.
    """

    title: str
    file: str
    make: Callable[[], bytes]
    becomes: str = READ
    needs: str = ""


def pixels(height: int = 72, width: int = 96, seed: int = 0) -> np.ndarray:
    """A picture of coarse colours, (H, W, 3) uint8."""
    coarse = np.random.default_rng(seed).integers(20, 236, (height // 8, width // 8, 3), dtype=np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)


def image(mode: str = "RGB", seed: int = 0) -> Image.Image:
    """The same as an image of a mode."""
    return Image.fromarray(pixels(seed=seed)).convert(mode)


def saved(kind: str, picture: Image.Image | None = None, **options: Any) -> bytes:
    """An image as the bytes of a file."""
    buffer = io.BytesIO()
    (picture or image()).save(buffer, kind, **options)
    return buffer.getvalue()


def png(picture: np.ndarray, *, depth: int = 8, kind: int = 2, extra: bytes = b"") -> bytes:
    """A PNG written out, for what Pillow does not write: 16 bit RGB, gamma, primaries."""
    height, width = picture.shape[:2]
    wide = (picture.astype(np.uint16) * 257).astype(">u2") if depth == 16 else picture
    rows = b"".join(b"\0" + row.tobytes() for row in wide)
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def chunk(name: bytes, data: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_alpha(mode: str = "RGBA") -> Image.Image:
    """A picture that is opaque in its right half."""
    picture = image().convert(mode)
    alpha = np.zeros((72, 96), dtype=np.uint8)
    alpha[:, 48:] = 255
    picture.putalpha(Image.fromarray(alpha))
    return picture


def animation(kind: str, *, first_empty: bool = True) -> bytes:
    """Frames of which the first shows nothing."""
    frames = [Image.new("RGB", (96, 72), "white")] if first_empty else []
    frames += [image(seed=seed) for seed in range(3)]
    return saved(kind, frames[0], save_all=True, append_images=frames[1:], duration=80)


def pages() -> bytes:
    """A TIFF of three pages, the second of which is the largest."""
    small = image().resize((48, 36))
    return saved("TIFF", small, save_all=True, append_images=[image(seed=1), small])


def jpeg_from_camera(interop: bytes) -> bytes:
    """A JPEG whose EXIF says which colours the camera wrote (R98: sRGB, R03: Adobe RGB)."""
    interop_ifd = struct.pack("<HHHI4sI", 1, 1, 2, 4, interop + b"\0", 0)
    exif_ifd = struct.pack("<HHHIII", 1, 0xA005, 4, 1, 8 + 18 + 18, 0)
    first = struct.pack("<HHHIII", 1, 0x8769, 4, 1, 8 + 18, 0)
    return saved("JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0" + first + exif_ifd + interop_ifd, quality=95)


def upright(orientation: int) -> bytes:
    """A JPEG that a phone turns."""
    exif = Image.Exif()
    exif[274] = orientation
    return saved("JPEG", exif=exif)


def large_text() -> bytes:
    """A PNG as the host saves it, with the workflow of a huge graph compressed in it."""
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "node " * 800_000, zip=True)
    return saved("PNG", pnginfo=info)


def profile(name: str = "sRGB") -> bytes:
    """A colour profile."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()  # type: ignore[arg-type]


def psd() -> bytes:
    """A flattened Photoshop file, as every program that writes one puts it at the end."""
    picture = pixels()
    header = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 72, 96, 8, 3) + struct.pack(">III", 0, 0, 0) + struct.pack(">H", 0)
    return header + b"".join(np.ascontiguousarray(picture[..., band]).tobytes() for band in range(3))


def bmp_with_alpha() -> bytes:
    """A BMP of 32 bits whose fourth byte is transparency."""
    raw = np.asarray(with_alpha())[::-1, :, [2, 1, 0, 3]].tobytes()
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    core = struct.pack("<IiiHHIIiiII", 108, 96, 72, 1, 32, 3, len(raw), 2835, 2835, 0, 0) + masks + b"BGRs" + bytes(48)
    return b"BM" + struct.pack("<IHHI", 14 + len(core) + len(raw), 0, 0, 14 + len(core)) + core + raw


def bomb() -> bytes:
    """A PNG of a few bytes that claims 20,000 x 20,000 pixels."""
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def qoi() -> bytes:
    """A QOI that spells out every pixel."""
    spelt = b"".join(b"\xfe" + bytes(pixel) for pixel in pixels().reshape(-1, 3))
    return b"qoif" + struct.pack(">IIBB", 96, 72, 3, 0) + spelt + bytes(7) + b"\1"


def by_heif(**options: Any) -> bytes:
    """A HEIC, where the library is installed."""
    from pillow_heif import from_pillow

    buffer = io.BytesIO()
    from_pillow(image()).save(buffer, quality=95, **options)
    return buffer.getvalue()


def by_jxl() -> bytes:
    """A JPEG XL, where the library is installed."""
    import pillow_jxl  # noqa: F401

    return saved("JXL", lossless=True)


def sixteen_bits(picture: np.ndarray) -> Image.Image:
    """A grey picture of 16 bits."""
    return Image.fromarray(picture.astype(np.uint16) * 257)


_HTML = b"<!DOCTYPE html>\n<html><head><title>Bear</title></head><body>...</body></html>"
_GREY = pixels()[..., 0]
_P3 = chunk(b"gAMA", struct.pack(">I", 45455)) + chunk(
    b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
)

KINDS: tuple[Kind, ...] = (
    Kind("PNG", "a.png", lambda: saved("PNG")),
    Kind("PNG, 16 bit", "a.png", lambda: png(pixels(), depth=16)),
    Kind("PNG, grey of 16 bit", "a.png", lambda: saved("PNG", sixteen_bits(_GREY))),
    Kind("PNG, palette", "a.png", lambda: saved("PNG", image().quantize(32))),
    Kind("PNG, palette with a transparent colour", "a.png", lambda: saved("PNG", image().quantize(32), transparency=3)),
    Kind("PNG, 1 bit", "a.png", lambda: saved("PNG", image("1"))),
    Kind("PNG with transparency", "a.png", lambda: saved("PNG", with_alpha())),
    Kind("PNG, grey with transparency", "a.png", lambda: saved("PNG", with_alpha("L"))),
    Kind("PNG with gamma 1.0", "a.png", lambda: png(pixels(), extra=chunk(b"gAMA", struct.pack(">I", 100_000)))),
    Kind("PNG with the primaries of Display P3", "a.png", lambda: png(pixels(), extra=_P3)),
    Kind("PNG with 4 MB of workflow", "a.png", large_text),
    Kind("PNG, animated (first frame empty)", "a.apng", lambda: animation("PNG")),
    Kind("JPEG", "a.jpg", lambda: saved("JPEG")),
    Kind("JPEG as browsers call it", "a.jfif", lambda: saved("JPEG")),
    Kind("JPEG without an ending", "a", lambda: saved("JPEG")),
    Kind("JPEG as a web page calls it", "a.jpg_large", lambda: saved("JPEG")),
    Kind("JPEG, turned by the phone", "a.jpg", lambda: upright(6)),
    Kind("JPEG, CMYK", "a.jpg", lambda: saved("JPEG", image("CMYK"))),
    Kind("JPEG, grey", "a.jpg", lambda: saved("JPEG", image("L"))),
    Kind("JPEG, progressive", "a.jpe", lambda: saved("JPEG", progressive=True)),
    Kind("JPEG in a camera's Adobe RGB", "a.jpg", lambda: jpeg_from_camera(b"R03")),
    Kind("JPEG with a colour profile", "a.jpg", lambda: saved("JPEG", icc_profile=profile())),
    Kind("JPEG with a broken colour profile", "a.jpg", lambda: saved("JPEG", icc_profile=b"no profile" * 20)),
    Kind("JPEG that is called PNG", "a.png", lambda: saved("JPEG")),
    Kind("MPO (a phone's picture with depth)", "a.mpo", lambda: saved("MPO", save_all=True, append_images=[image("L").convert("RGB")])),
    Kind("WebP", "a.webp", lambda: saved("WEBP")),
    Kind("WebP with transparency", "a.webp", lambda: saved("WEBP", with_alpha(), lossless=True)),
    Kind("WebP, animated (first frame empty)", "a.webp", lambda: animation("WEBP")),
    Kind("AVIF", "a.avif", lambda: saved("AVIF")),
    Kind("AVIF that is called JPEG", "a.jpg", lambda: saved("AVIF")),
    Kind("HEIC", "a.heic", by_heif, needs="pillow_heif"),
    Kind("HEIC that is called JPEG", "a.jpg", by_heif, needs="pillow_heif"),
    Kind("JPEG XL", "a.jxl", by_jxl, needs="pillow_jxl"),
    Kind("JPEG 2000", "a.jp2", lambda: saved("JPEG2000")),
    Kind("GIF", "a.gif", lambda: saved("GIF", image().quantize(64))),
    Kind("GIF, animated (first frame empty)", "a.gif", lambda: animation("GIF")),
    Kind("GIF with transparency", "a.gif", lambda: saved("GIF", image().quantize(32), transparency=3)),
    Kind("BMP", "a.bmp", lambda: saved("BMP")),
    Kind("BMP with transparency", "a.bmp", bmp_with_alpha),
    Kind("TIFF", "a.tif", lambda: saved("TIFF")),
    Kind("TIFF, compressed", "a.tiff", lambda: saved("TIFF", compression="tiff_lzw")),
    Kind("TIFF, CMYK", "a.tif", lambda: saved("TIFF", image("CMYK"))),
    Kind("TIFF, Lab", "a.tif", lambda: saved("TIFF", image("LAB"))),
    Kind("TIFF, grey of 16 bit", "a.tif", lambda: saved("TIFF", sixteen_bits(_GREY))),
    Kind("TIFF, grey of 32 bit", "a.tif", lambda: saved("TIFF", Image.fromarray(_GREY.astype(np.int32) * 8_000_000))),
    Kind("TIFF, floating point", "a.tif", lambda: saved("TIFF", Image.fromarray((_GREY / 255).astype(np.float32)))),
    Kind("TIFF of three pages", "a.tif", pages),
    Kind("Photoshop, flattened", "a.psd", psd),
    Kind("TGA", "a.tga", lambda: saved("TGA", with_alpha())),
    Kind("ICO", "a.ico", lambda: saved("ICO", with_alpha().resize((64, 64)))),
    Kind("PPM", "a.ppm", lambda: saved("PPM")),
    Kind("PCX", "a.pcx", lambda: saved("PCX")),
    Kind("QOI", "a.qoi", qoi),
    Kind("Ending in capitals", "A.JPEG", lambda: saved("JPEG")),
    Kind("Transparent everywhere", "a.png", lambda: saved("PNG", Image.merge("RGBA", (*image().split(), Image.new("L", (96, 72)))))),
    Kind("Empty file", "a.jpg", lambda: b"", NAMED),
    Kind("Half a file", "a.jpg", lambda: saved("JPEG")[:900], NAMED),
    Kind("Nothing but zeros", "a.jpg", lambda: bytes(5000), NAMED),
    Kind("Web page", "a.jpg", lambda: _HTML, NAMED),
    Kind("Text", "a.png", lambda: b'{"error": "not found"}', NAMED),
    Kind("Link of Git LFS", "a.png", lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", NAMED),
    Kind("20,000 x 20,000 pixels", "a.png", bomb, NAMED),
    Kind("Long and narrow", "a.png", lambda: saved("PNG", Image.new("RGB", (900, 40), "red")), NAMED),
    Kind("Too small", "a.png", lambda: saved("PNG", Image.new("RGB", (16, 16), "red")), NAMED),
    Kind("Camera's raw file", "a.dng", lambda: b"II*\0" + bytes(range(60)), NAMED),
    Kind("Camera's raw file that is called TIFF", "a.tif", lambda: b"II*\0\x10\0\0\0CR\x02\0" + bytes(60), NAMED),
    Kind("SVG", "a.svg", lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", NAMED),
    Kind("SVG that is called PNG", "a.png", lambda: b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", NAMED),
    Kind("PDF", "a.pdf", lambda: b"%PDF-1.7\n", NAMED),
    Kind("PDF that is called JPEG", "a.jpg", lambda: b"%PDF-1.7\n", NAMED),
    Kind("Photoshop, 16 bit", "a.psd", lambda: psd().replace(struct.pack(">HH", 8, 3), struct.pack(">HH", 16, 3)), NAMED),
    Kind("Photoshop, large", "a.psb", psd, NAMED),
    Kind("Krita", "a.kra", lambda: b"PK\x03\x04" + bytes(40), NAMED),
    Kind("Procreate", "a.procreate", lambda: b"PK\x03\x04" + bytes(40), NAMED),
    Kind("OpenEXR", "a.exr", lambda: b"v/1\x01" + bytes(40), NAMED),
    Kind("Film", "a.mov", lambda: b"\0\0\0\x14ftypqt  " + bytes(8), NAMED),
    Kind("Film that is called JPEG", "a.jpg", lambda: b"\0\0\0\x14ftypisom" + bytes(8), NAMED),
    Kind("Archive", "a.zip", lambda: b"PK\x03\x04" + bytes(40), NAMED),
    Kind("Download that was broken off", "a.jpg.crdownload", lambda: saved("JPEG")[:900], NAMED),
    Kind("Picture that is still in iCloud", ".IMG_1.HEIC.icloud", lambda: b"bplist00", NAMED),
    Kind("Unknown", "a.xyz", lambda: b"what is this", NAMED),
    Kind("macOS: resource fork", "._a.jpg", lambda: b"\0\5\x16\7" + bytes(40), IGNORED),
    Kind("macOS: folder settings", ".DS_Store", lambda: bytes(40), IGNORED),
    Kind("Windows: thumbnails", "Thumbs.db", lambda: bytes(40), IGNORED),
    Kind("Windows: folder settings", "desktop.ini", lambda: b"[x]", IGNORED),
    Kind("iPhone: edits", "IMG_1.AAE", lambda: b"<plist/>", IGNORED),
    Kind("Lightroom: edits", "a.xmp", lambda: b"<x:xmpmeta/>", IGNORED),
    Kind("Editor: backup", "a.png~", lambda: saved("PNG"), IGNORED),
)


def write(kind: Kind, folder: Path) -> Path:
    """The example of a kind in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / kind.file
    file.write_bytes(kind.make())
    return file
