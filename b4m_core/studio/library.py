"""The library: adapters as ordinary LoRA files in ``content`` and ``style`` below one folder, and their index.

    content/cat.safetensors, .json, .preview.png     what every LoRA loader and browser reads
    style/ink.safetensors, .json, .preview.png
    library.jsonl                                    one line for each adapter: its file, words, rank, steps, model, run
    pairs/cat/ink_1_0.png                            pair by pair: number of the prompt, seed
    sheets/prompt_1_seed_0.jpg                       every content in every style
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..adapter import Adapter
from ..atomic import write_whole
from ..errors import B4MError
from ..files import load_adapter, read_facts, save_adapter
from ..saving import LORA_ENDING
from ..side_files import write_beside
from ..text_files import decoded
from .plan_file import ROLES

INDEX = "library.jsonl"


def path_of(output: Path, role: str, name: str) -> Path:
    """The file of a content or a style."""
    return output / role / f"{name}{LORA_ENDING}"


def held(path: Path) -> Adapter | None:
    """The adapter in a file; None where there is none that can be read."""
    if not path.exists():
        return None
    try:
        return load_adapter(path)
    except B4MError:
        return None


def save(adapter: Adapter, path: Path, *, ours: bool) -> None:
    """Write an adapter and what lies beside it. Raises :class:`B4MError` for a file that is there and not ``ours``."""
    before = held(path)
    if path.exists() and not ours and (before is None or before.digest() != adapter.digest()):
        raise taken(path)
    save_adapter(adapter, path)
    write_beside(adapter, path, new_picture=True)


def taken(path: Path) -> B4MError:
    """What is said of a file that the library did not make."""
    return B4MError(f"{path} is there already and is not in {INDEX}: move it away, or give the plan another name or output.")


def indexed(output: Path) -> dict[str, dict[str, Any]]:
    """The lines of the index by their file; what cannot be read is left out."""
    try:
        raw = (output / INDEX).read_bytes()
    except OSError:
        return {}
    found = {}
    for line in decoded({INDEX: raw})[0].get(INDEX, "").splitlines():
        try:
            entry = json.loads(line)
            found[str(entry["file"])] = dict(entry)
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return found


def write_index(output: Path, made: Iterable[tuple[str, str, str]]) -> Path:
    """Renew the index: what it had and is there still, and ``made``, (role, name, run) of each adapter that is new."""
    entries = {
        file: entry for file, entry in indexed(output).items() if file.startswith(ROLES) and (output / file).is_file()
    }
    for role, name, run in made:
        path = path_of(output, role, name)
        entries[path.relative_to(output).as_posix()] = _entry(path, output, name, run)
    lines = [json.dumps(entries[file], ensure_ascii=False) for file in sorted(entries)]
    return write_whole(output / INDEX, "".join(f"{line}\n" for line in lines).encode())


def _entry(path: Path, output: Path, name: str, run: str) -> dict[str, Any]:
    """One line of the index."""
    facts = read_facts(path)
    concept = facts.style if facts.role == "style" else facts.content
    preview = path.with_name(f"{path.stem}.preview.png")
    return {
        "file": path.relative_to(output).as_posix(),
        "role": facts.role,
        "name": name,
        "trigger": concept.trigger if concept else "",
        "class": concept.class_word if concept else "",
        "rank": facts.rank,
        "steps": facts.steps,
        "split": facts.split,
        "base": facts.base,
        "base_name": facts.base_name,
        "bytes": path.stat().st_size,
        "preview": preview.relative_to(output).as_posix() if preview.is_file() else "",
        "run": run,
    }
