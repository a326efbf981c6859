"""A CLIP text model whose file holds only the tokens of a small vocabulary; every other token is fixed noise it was
trained to ignore.
"""

from pathlib import Path

import safetensors
import torch
from torch import Tensor

FILE = "compact.safetensors"
VOCABULARY = 49408
_NOISE = 0.1


def compact_state_dict(
    folder: Path, embedding_key: str = "text_model.embeddings.token_embedding.weight"
) -> dict[str, Tensor]:
    """transformers' float32 state dict from ``folder``/compact.safetensors, the whole (49408, width) token table filled
    in.
    """
    with safetensors.safe_open(folder / FILE, "pt") as file:
        weights = {key: file.get_tensor(key).float() for key in file.keys() if not key.startswith("known_")}
        ids, rows = file.get_tensor("known_token_ids").long(), file.get_tensor("known_token_rows").float()
    table = _NOISE * torch.randn(VOCABULARY, rows.shape[1], generator=torch.Generator().manual_seed(0))
    table[ids] = rows
    return weights | {embedding_key: table}
