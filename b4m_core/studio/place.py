"""Where tasks are done: which model, in which folders, on what device."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..adapter import Adapter
from ..loading import load_model
from ..quiet import quiet_libraries

if TYPE_CHECKING:
    from ..diffusers_folder import DiffusersFolder

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Place:
    """The same for all workers, so its paths must be too. ``device`` and ``dtype`` are "" for what the worker has;
    ``threads``: of the processor, 0 to leave them. ``session``: the command that the work is for.
    """

    model: Path
    tokenizer: Path | None
    store: Path
    output: Path
    device: str = ""
    dtype: str = ""
    threads: int = 0
    session: str = ""

    def base(self) -> DiffusersFolder:
        """The base model, read once in a process."""
        quiet_libraries()
        if self.threads:
            torch.set_num_threads(self.threads)
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = self.dtype or ("bfloat16" if device.startswith("cuda") else "float32")
        return _base(self.model, self.tokenizer, device, dtype)


@functools.lru_cache(maxsize=1)
def _base(model: Path, tokenizer: Path | None, device: str, dtype: str) -> DiffusersFolder:
    return load_model(model, tokenizer=tokenizer, device=device, dtype=getattr(torch, dtype))


def worn(base: DiffusersFolder, adapter: Adapter) -> AbstractContextManager[None]:
    """Within, ``base`` paints with ``adapter``; afterwards its weights are what they were, bit for bit, fit for training."""
    base.unet.to(base.device)  # a training that had to stream them may have left some in main memory
    return base.wearing(adapter)
