"""What lies beside an adapter's file for other tools: ``name.json`` with the words that A1111, Forge, SwarmUI and
InvokeAI put into a prompt, and ``name.preview.png``, which they and ComfyUI show.
"""

import json
from pathlib import Path
from typing import Any

from .adapter import Adapter
from .atomic import write_whole
from .cards import activation_text, description
from .models import family_named
from .thumbnail import as_png

_VERSIONS = {"sdxl_base_v1-0": "SDXL"}
"""The name of a base model in a header, and how A1111 and Forge call it."""
_MOST_BYTES = 1 << 20


def write_beside(adapter: Adapter, path: Path, *, new_picture: bool = False) -> list[Path]:
    """Write both beside the adapter's file at ``path``; gives those written.

    Of a ``.json`` that is there all entries stay but the words and what they go with; a picture that is there stays,
    unless ``new_picture`` was asked for. Raises :class:`B4MError` where they cannot be written.
    """
    written: list[Path | None] = []
    if text := activation_text(adapter.facts):
        written.append(_write_words(adapter, path.with_suffix(".json"), text))
    preview = path.with_name(f"{path.stem}.preview.png")
    png = as_png(adapter.thumbnail) if adapter.thumbnail and (new_picture or not preview.exists()) else None
    if png is not None:
        write_whole(preview, png)
        written.append(preview)
    return [each for each in written if each is not None]


def _write_words(adapter: Adapter, path: Path, text: str) -> Path | None:
    """The side file with the words in it; None where a file of another kind has the name."""
    known = _known(path)
    if known is None:
        return None
    version = _VERSIONS.get(_header_version(adapter))
    ours = {"activation text": text, **({"sd version": version} if version else {})}
    whole = {"description": description(adapter.facts), **known, **ours}
    if whole != known:
        write_whole(path, json.dumps(whole, indent=4, ensure_ascii=False).encode())
    return path


def _header_version(adapter: Adapter) -> str:
    return family_named(adapter.facts.family).header("lora", adapter.shapes()).get("ss_base_model_version", "")


def _known(path: Path) -> dict[str, Any] | None:
    """What a side file says; nothing where there is none, None where it is no such file."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            return None
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        return None
    return raw if isinstance(raw, dict) else None
