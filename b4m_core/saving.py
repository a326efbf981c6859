"""What is written when an adapter is saved, the same in the graph and on the command line."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from .adapter import Adapter
from .apart import JOINT, apart, apart_note
from .atomic import NameTaken
from .compact_format import COMPACT_ENDING
from .errors import B4MError
from .files import load_adapter, save_adapter
from .resize import resized
from .side_files import write_beside

LORA_ENDING = ".safetensors"


@dataclass(frozen=True)
class Choices:
    """``rank``: reduced to this, 0 for none. ``compact``: what was taught alone. ``apart``: content and style beside it
    as LoRAs of their own.
    """

    rank: int = 0
    compact: bool = False
    apart: bool = False


@dataclass(frozen=True)
class Pieces:
    """The adapters to write, by the ending of their name: nothing, ``_content``, ``_style``; and what is said of
    them.
    """

    adapters: dict[str, Adapter]
    notes: list[str] = field(default_factory=list)


def pieces(adapter: Adapter, choices: Choices) -> Pieces:
    """What ``choices`` make of the adapter. Raises :class:`B4MError` where they cannot."""
    notes = []
    if choices.rank:
        adapter, error = resized(adapter, choices.rank)
        notes.append(rank_note(adapter, error))
    plain = adapter.with_facts(compact=False, file_format="")
    made = {"": plain.compacted() if choices.compact else plain}
    if choices.apart and adapter.facts.role not in JOINT:
        notes.append(f"It is a {adapter.facts.role} alone, so there is nothing to take apart.")
    elif choices.apart:
        made |= {f"_{concept}": one for concept, one in apart(plain).items()}
        notes.append(apart_note(adapter))
    return Pieces(made, notes)


def ending_of(adapter: Adapter) -> str:
    """The ending that the adapter's file must have: one that no LoRA loader lists where none could read it."""
    return COMPACT_ENDING if adapter.facts.compact else LORA_ENDING


def require_ending(path: Path, ending: str) -> None:
    """Raise :class:`B4MError` for a file name of another ending."""
    if path.suffix.lower() != ending:
        who = "other loaders pass it over" if ending == COMPACT_ENDING else "LoRA loaders look for it"
        raise B4MError(f"{path.name} needs the ending {ending}, so that {who}: name it {path.stem or path.name}{ending}.")


def rank_note(adapter: Adapter, error: float) -> str:
    """What a smaller rank cost, in a sentence."""
    if not error:
        return f"Its rank is {adapter.facts.rank} already, so nothing was reduced."
    return f"Rank {adapter.facts.rank} for each concept: the whole is {error:.2%} off the adapter as it was trained."


def save_numbered(adapter: Adapter, path_of: Callable[[str], Path], stem: str, *, replace: bool, new_picture: bool = False) -> Path:
    """Write the adapter under ``stem``, or unless ``replace`` under the first numbered name that is free; the same one
    saved before keeps its name. What other tools read is written beside it.

    ``path_of`` gives the path for a stem, or refuses it. ``new_picture``: its thumbnail counts more than a picture that
    lies there.
    """
    path, number = path_of(stem), 1
    while True:
        if replace or not path.exists():
            with suppress(NameTaken):  # another ComfyUI may save under this name at the same moment
                save_adapter(adapter, path, over=replace)
                break
        held = _read(path)
        if held is not None and held.digest() == adapter.digest() and held.facts == adapter.facts:
            if adapter.thumbnail not in ("", held.thumbnail):
                save_adapter(adapter, path)  # the same adapter gets its new picture
            break
        number += 1
        path = path_of(f"{stem}_{number}")
    write_beside(adapter, path, new_picture=replace or new_picture)
    return path


def _read(path: Path) -> Adapter | None:
    try:
        return load_adapter(path)
    except B4MError:
        return None
