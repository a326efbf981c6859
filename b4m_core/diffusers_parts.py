"""Parts of a model folder in diffusers' layout, in the forms that folders come in: weights of a variant such as fp16, a
tokenizer as one file or as two.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import CLIPTokenizer, CLIPTokenizerFast

_VARIANT = re.compile(r"\w+\.([A-Za-z0-9_]+?)(-\d+-of-\d+)?\.safetensors")
_TWO_FILES, _ONE_FILE = ("vocab.json", "merges.txt"), ("tokenizer.json",)


def variant_of(part: Path) -> str | None:
    """The variant of a part's weights, fp16 of ``model.fp16.safetensors``; None where there are plain ones."""
    matches = [_VARIANT.fullmatch(file.name) for file in sorted(part.glob("*.safetensors"))]
    found = [match.group(1) for match in matches if match]
    return found[0] if found and len(found) == len(matches) else None


def weights_of(part: Path) -> list[Path]:
    """The safetensors files that a part's weights are read from."""
    variant = variant_of(part)
    files = sorted(part.glob("*.safetensors"))
    return [file for file in files if variant is not None or not _VARIANT.fullmatch(file.name)]


def clip_tokenizer(folders: Iterable[Path | None], padding: str) -> CLIPTokenizer | None:
    """CLIP's tokenizer from the first of ``folders`` that has one; None where none has. Raises ValueError for one that
    cannot be read.
    """
    for folder in folders:
        for names, kind in ((_TWO_FILES, CLIPTokenizer), (_ONE_FILE, CLIPTokenizerFast)):
            if folder is not None and all((folder / name).is_file() for name in names):
                return _read(kind, folder, padding)
    return None


def _read(kind: Any, folder: Path, padding: str) -> CLIPTokenizer:
    try:
        return kind.from_pretrained(folder, model_max_length=77, pad_token=padding)
    except Exception as error:  # the library below raises Exception itself
        raise ValueError(str(error)) from error
