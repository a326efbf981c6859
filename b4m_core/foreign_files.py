"""What a file that Pillow cannot read really is, told by its first bytes: a web page saved as .jpg, an empty file ..."""

import re

_FILM_BRANDS = (b"qt  ", b"isom", b"iso2", b"mp41", b"mp42", b"M4V ", b"avc1", b"MSNV", b"3gp", b"dash")
_BEGINNINGS = (
    (b"%PDF", "it is a PDF: export its pages as PNG"),
    (b"%!PS", "it is a PostScript drawing: export it as PNG"),
    (b"\xc5\xd0\xd3\xc6", "it is a PostScript drawing: export it as PNG"),
    (b"8BPS", "it is a Photoshop file of a kind that cannot be read: save it as PNG"),
    (b"gimp xcf", "it is a GIMP file: export it as PNG"),
    (b"PK\x03\x04", "it is an archive, or a drawing program's own file: export it as PNG"),
    (b"Rar!", "it is an archive: unpack it"),
    (b"7z\xbc\xaf", "it is an archive: unpack it"),
    (b"\x1f\x8b", "it is an archive: unpack it"),
    (b"\x1aE\xdf\xa3", "it is a film: save a frame of it as PNG"),
    (b"FUJIFILMCCD-RAW", "it is a camera's raw file: develop it and export it as JPEG"),
    (b"IIU\0", "it is a camera's raw file: develop it and export it as JPEG"),
    (b"IIRO", "it is a camera's raw file: develop it and export it as JPEG"),
    (b"v/1\x01", "it is an OpenEXR picture: save it as 16 bit PNG"),
    (b"#?RADIANCE", "it is a Radiance picture: save it as 16 bit PNG"),
    (b"version https://git-lfs", "it only says where Git keeps the picture: fetch it with git lfs pull"),
    (b"bplist", "it only says where the picture is: download it"),
)
_WEB_PAGE = re.compile(rb"\s*(<!--.*?-->\s*)?(<!doctype html|<html|<head|<body)", re.IGNORECASE | re.DOTALL)
_SVG = re.compile(rb"\s*(<\?xml.*?\?>)?.{0,400}?<svg", re.IGNORECASE | re.DOTALL)


def what_else(head: bytes) -> str:
    """What a file is that begins with ``head`` (some 1,000 bytes) and is surely no picture that we read: a clause for
    "x was left out: ...". Empty where that is not known."""
    if not head:
        return "it is empty (0 bytes): copy or download it again"
    for beginning, reason in _BEGINNINGS:
        if head.startswith(beginning) and beginning != b"8BPS":
            return reason
    if head[4:8] == b"ftyp" and head[8:12].startswith(_FILM_BRANDS):
        return "it is a film: save a frame of it as PNG"
    if head[4:12] == b"ftypcrx " or (head[:4] == b"II*\0" and head[8:10] == b"CR"):
        return "it is a camera's raw file: develop it and export it as JPEG"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "it is a film: save a frame of it as PNG"
    if len(head) > 16 and not head.strip(b"\0"):
        return "it holds nothing but zeros, so it was not copied to its end: copy it again"
    return _text(head)


def of_a_kind_not_read(head: bytes) -> str:
    """The same for a file of a kind that is read, when it could not be."""
    if head.startswith(b"8BPS"):
        return dict(_BEGINNINGS)[b"8BPS"]
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "it is a TIFF of a kind that cannot be read, or damaged: save it as PNG"
    return ""


def _text(head: bytes) -> str:
    plain = head.removeprefix(b"\xef\xbb\xbf")
    if _WEB_PAGE.match(plain):
        return "it is a web page, not a picture: open the page and save the picture itself"
    if _SVG.match(plain):
        return "it is an SVG drawing: export it as PNG"
    if len(plain) >= 4 and all(byte in b"\t\n\r\f" or 32 <= byte for byte in plain) and plain.isascii():
        words = plain[:30].decode("ascii").split()
        if plain[:2] not in (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"P7", b"BM"):
            return f'it is text ("{" ".join(words)} ..."), not a picture'
    return ""
