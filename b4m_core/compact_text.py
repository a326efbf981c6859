"""A CLIP text model whose file holds only the tokens of a small vocabulary; every other token is fixed noise it was
trained to ignore.
"""

from pathlib import Path

import safetensors
import torch
from torch import Tensor

from .errors import B4MError

FILE = "compact.safetensors"
VOCABULARY = 49408
_NOISE = 0.1
_WIDEST = 1280  # SDXL's larger text encoder: the table has a row for every token, however small the file


def compact_state_dict(
    folder: Path, embedding_key: str = "text_model.embeddings.token_embedding.weight"
) -> dict[str, Tensor]:
    """transformers' float32 state dict from ``folder``/compact.safetensors, the whole (49408, width) token table filled
    in.
    """
    try:
        with safetensors.safe_open(folder / FILE, "pt") as file:
            weights = {key: file.get_tensor(key).float() for key in file.keys() if not key.startswith("known_")}
            ids, rows = file.get_tensor("known_token_ids").long(), file.get_tensor("known_token_rows").float()
    except (safetensors.SafetensorError, OSError, RuntimeError) as error:
        raise B4MError(f"{folder.name}/{FILE} is damaged ({error}): download the model again.") from error
    if ids.ndim != 1 or rows.ndim != 2 or len(ids) != len(rows) or not 0 < rows.shape[1] <= _WIDEST or not _are_tokens(ids):
        raise B4MError(f"{folder.name}/{FILE} is damaged: its tokens and their rows do not fit; download the model again.")
    table = _NOISE * torch.randn(VOCABULARY, rows.shape[1], generator=torch.Generator().manual_seed(0))
    table[ids] = rows
    return weights | {embedding_key: table}


def _are_tokens(ids: Tensor) -> bool:
    return bool(((ids >= 0) & (ids < VOCABULARY)).all())
