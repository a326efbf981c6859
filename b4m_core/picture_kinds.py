"""Which files are pictures: the one rule for what is listed and for what is read.

A file is *read* by Pillow (HEIC and JPEG XL by a library beside it), or it is of a kind that people take for a picture
and that is *named* with what to do, or it is *litter* of a camera, a system, a network disk or an archive and ignored.
"""

import os
import re
from pathlib import Path

READ = frozenset(
    ".png .apng .jpg .jpeg .jpe .jfif .jif .jfi .pjpeg .pjp .mpo .webp .gif .bmp .dib .tif .tiff .avif .avifs .heic .heif"
    " .hif .heics .heifs .jxl .jp2 .j2k .j2c .jpf .jpx .jpc .tga .ico .cur .icns .psd .pcx .ppm .pgm .pbm .pnm .sgi .rgb"
    " .qoi .dds".split()
)
"""Endings that are read."""

_EXPORT = "export it as PNG or JPEG"
_NAMED = {
    "a camera's raw file": (
        ".dng .cr2 .cr3 .crw .nef .nrw .arw .sr2 .srf .raf .orf .rw2 .pef .srw .raw .rwl .3fr .iiq .x3f .kdc .dcr .erf .mef"
        " .mos .mrw",
        f"develop it and {_EXPORT}",
    ),
    "a drawing made of lines": (".svg .svgz .wmf .emf .cdr .dxf", _EXPORT),
    "a document": (".pdf .ai .eps .ps .indd .djvu", f"{_EXPORT} page by page"),
    "a drawing program's own file": (
        ".psb .xcf .kra .ora .clip .procreate .afphoto .afdesign .af .sai .sai2 .mdp .pdn .sketch .fig .csp .pxd .cpt .rif",
        _EXPORT,
    ),
    "a picture with more than 8 bit of light": (".exr .hdr .pfm", "tone-map it and save it as PNG"),
    "a film": (
        ".mov .mp4 .m4v .avi .mkv .webm .3gp .3g2 .mts .m2ts .wmv .mpg .mpeg .flv .ogv .insv .lottie",
        "save a frame of it as PNG",
    ),
    "an archive": (".zip .rar .7z .tar .gz .tgz .bz2 .xz .zst", "unpack it into the folder"),
    "a download that was broken off": (".crdownload .part .download .partial .opdownload .tmp", "download it again"),
    "a picture that is still in iCloud": (".icloud", "download it in the Files app or in Finder"),
    "a scientific picture": (".fits .fit .dcm .dicom .nii .h5 .czi .lif .nd2", _EXPORT),
}
"""Kinds that are not read, by their endings, and what to do."""
NAMED = {ending: (kind, advice) for kind, (endings, advice) in _NAMED.items() for ending in endings.split()}
"""Ending to (what it is, what to do)."""

REMOVED = "b4m_removed"
"""The subfolder for what an artist took out of a set; it is no set itself."""
_LITTER_FOLDERS = frozenset(
    name.casefold()
    for name in (
        "__MACOSX", "@eaDir", "@Recycle", "@Recently-Snapshot", "@__thumb", "@SynoResource", "@SynoEAStream", "@tmp",
        "#recycle", "#snapshot", "$RECYCLE.BIN", "RECYCLER", "System Volume Information", "lost+found", "LOST.DIR",
        "Network Trash Folder", "Temporary Items", "TheVolumeSettingsFolder", "FOUND.000", "__pycache__", "node_modules",
        "_thumbs", "thumbs", "thumbnails", "_vti_cnf", "Spotlight-V100", REMOVED,
    )
)  # fmt: skip
_LITTER_FILES = frozenset(
    "thumbs.db ehthumbs.db ehthumbs_vista.db desktop.ini icon\r folder.ini picasa.ini zbthumbnail.info albumart.ini"
    " b4m_order.txt .nomedia readme license synoindex_media_info".split(" ")
)
_LITTER_ENDINGS = frozenset(
    ".aae .xmp .thm .lrv .pp3 .dop .on1 .cos .ini .db .url .lnk .webloc .ds_store .bak .old .ctg .bridgecache"
    " .bridgecachet .info .lck .lock".split()
)
_ODD_ENDING = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?|avif|heic|image|img|pic)[^a-z].*|\.(img|image|pic)|", re.IGNORECASE)
"""No ending, or one that a web page has lengthened (.jpg_large, .jpg!d, .webp~tplv): told by what is in the file."""
_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\xff\x0a", b"\0\0\0\x0cJXL", b"8BPS", b"qoif")


def is_litter(name: str, *, folder: bool = False) -> bool:
    """Whether a file or a folder of this name belongs to a system, not to the artist; ``._x.jpg`` and ``x.png~`` too."""
    low = name.casefold()
    if low.endswith(".icloud"):
        return False
    if low.startswith((".", "~$")) or low.endswith("~"):
        return True
    return low in _LITTER_FOLDERS if folder else low in _LITTER_FILES or os.path.splitext(low)[1] in _LITTER_ENDINGS


def is_picture(file: Path) -> bool:
    """Whether a file is read as a picture: by its ending, or by its beginning where the ending says nothing."""
    ending = file.suffix.lower()
    return ending in READ or (ending not in NAMED and bool(_ODD_ENDING.fullmatch(ending)) and _begins_as_picture(file))


def looks_like_picture(file: Path) -> bool:
    """Whether people take it for a picture: it is read, or named with what to do."""
    return not is_litter(file.name) and (file.suffix.lower() in NAMED or is_picture(file))


def holds_pictures(folder: Path) -> bool:
    """Whether a folder has at least one file that looks like a picture; False for one that may not be read."""
    return any(looks_like_picture(file) for file in entries(folder))


def picture_folders(folder: Path) -> list[Path]:
    """The subfolders that hold pictures, by name; litter is none."""
    return [place for place in entries(folder, folders=True) if holds_pictures(place)]


def entries(folder: Path, *, folders: bool = False) -> list[Path]:
    """What lies directly in a folder by name, files or else ``folders``, less litter; none where it may not be read."""
    try:
        with os.scandir(folder) as found:
            names = [entry.name for entry in found if _is_folder(entry) == folders]
    except OSError:
        return []
    return [folder / name for name in sorted(names) if not is_litter(name, folder=folders)]


def shown(name: str) -> str:
    """A file's name fit for a sentence: printable, on one line, not long."""
    text = "".join(letter if letter.isprintable() and not "\ud800" <= letter <= "\udfff" else "?" for letter in name)
    return text if len(text) <= 80 else f"{text[:60]}…{text[-16:]}"


def listed(names: list[str], most: int = 5) -> str:
    """Some names for a sentence: "a.png, b.png and 3 more"."""
    told = [shown(name) for name in names[:most]]
    return ", ".join(told) + (f" and {len(names) - most} more" if len(names) > most else "")


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _begins_as_picture(file: Path) -> bool:
    try:
        if not file.is_file():
            return False
        with open(file, "rb") as stream:
            head = stream.read(16)
    except OSError:
        return False
    boxed = head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis")
    return head.startswith(_MAGIC) or boxed or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
