"""Colours as the network knows them: sRGB, 8 bit, from whatever a file says that its numbers mean.

A profile is followed by LittleCMS, as Pillow has it. A camera's Adobe RGB without a profile and PNG's gamma and primaries
are worked out here: linear light, a matrix (SMPTE RP 177), the curve of IEC 61966-2-1.
"""

import io
from typing import Any

import numpy as np
from PIL import Image, ImageCms

ADOBE_RGB = (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06), 563 / 256
"""Chromaticities (white, red, green, blue; x and y each) and the exponent of its curve (Adobe RGB 1998)."""
DISPLAY_P3 = (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060), 0.0
"""The same of Display P3; its curve is sRGB's own, which 0 stands for."""
_SRGB = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_USUAL_GAMMA = 0.45455
_ROWS = 256  # worked on at once


def converted(image: Image.Image, info: dict[str, Any], *, adobe: bool, notes: list[str]) -> Image.Image:
    """An image of mode L, RGB or CMYK as RGB in sRGB. ``info`` is Pillow's of the file; ``adobe`` says that the camera
    wrote Adobe RGB. A profile that cannot be followed gets a note."""
    profile = info.get("icc_profile")
    if profile:
        try:
            return _by_profile(image, profile)
        except Exception:  # LittleCMS on a damaged profile, or one for other colours, raises whatever it likes
            notes.append("its colour profile cannot be followed, so its colours were taken as sRGB")
    elif adobe and image.mode == "RGB":
        return _by_primaries(image, *ADOBE_RGB)
    elif image.mode == "RGB" and _is_p3(info.get("nclx_profile")):
        return _by_primaries(image, *DISPLAY_P3)
    elif image.mode in ("RGB", "L") and "srgb" not in info:
        gamma = info.get("gamma") or _USUAL_GAMMA
        primaries = info.get("chromaticity") or _SRGB
        other = np.abs(np.subtract(primaries, _SRGB)).max() > 0.005 and image.mode == "RGB"
        if (abs(gamma - _USUAL_GAMMA) > 0.03 and 0.05 < gamma < 5) or other:
            return _by_primaries(image.convert("RGB"), primaries if other else _SRGB, 1 / gamma)
    return image.convert("RGB")


def _by_profile(image: Image.Image, profile: bytes) -> Image.Image:
    """The picture in sRGB, from the colours of its ICC profile. Raises what Pillow raises for a profile that is none."""
    source = ImageCms.getOpenProfile(io.BytesIO(profile))
    if image.mode == "L" and source.profile.xcolor_space == "RGB ":  # a grey photo that kept its camera's profile
        image = image.convert("RGB")
    if "srgb" in str(ImageCms.getProfileDescription(source)).lower() and image.mode == "RGB":
        return image
    changed = ImageCms.profileToProfile(
        image,
        source,
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    if changed is None:
        raise ValueError("no picture came back")
    return changed


def _is_p3(nclx: Any) -> bool:
    """Whether the header of a HEIC says Display P3 (primaries 12, curve 13 of ITU-T H.273)."""
    return isinstance(nclx, dict) and nclx.get("color_primaries") == 12 and nclx.get("transfer_characteristics") == 13


def _by_primaries(image: Image.Image, primaries: Any, exponent: float) -> Image.Image:
    """Linear light by ``exponent`` (0: sRGB's curve), sRGB's primaries, sRGB's curve."""
    levels = np.arange(256, dtype=np.float32) / 255
    curve = levels**exponent if exponent else np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    try:
        matrix = (np.linalg.inv(_to_xyz(_SRGB)) @ _to_xyz(primaries)).astype(np.float32)
    except np.linalg.LinAlgError:
        return image
    pixels = np.asarray(image)
    out = np.empty_like(pixels)
    for top in range(0, len(pixels), _ROWS):
        linear = (curve[pixels[top : top + _ROWS]].astype(np.float32) @ matrix.T).clip(0, 1)
        light = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
        out[top : top + _ROWS] = (light * 255).round()
    return Image.fromarray(out)


def _to_xyz(primaries: Any) -> np.ndarray:
    """The matrix from linear RGB of these chromaticities to XYZ."""
    white, *colours = (
        np.array([x / y, 1.0, (1 - x - y) / y]) for x, y in np.reshape(np.maximum(primaries, 1e-4), (4, 2)).astype(float)
    )
    columns = np.stack(colours, axis=1)
    return np.asarray(columns * np.linalg.solve(columns, white))
