"""The weights that a MODEL, CLIP or VAE really has: base weights with every upstream patch applied, as the host applies them."""

from __future__ import annotations

import hashlib
import weakref
from collections import deque
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import comfy.float
import comfy.lora
import comfy.model_patcher
import comfy.utils
import torch
from torch import Tensor

from .asking import ask

MOST_AHEAD = 8  # weights that wait for their digest: each may be a copy
_PAGES_AT_ONCE = 2**29  # bytes of a mapped file that are read before its pages are let go

_digests: weakref.WeakKeyDictionary[torch.nn.Module, dict[object, str]] = weakref.WeakKeyDictionary()


def real_weights(
    patcher: Any,
    prefix: str | None = None,
    device: torch.device | str | None = None,
    only: Container[str] | None = None,
    *,
    fresh: bool = True,
) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) for every weight of a ModelPatcher, or those in `only`, patches applied, without touching the patcher.

    The tensors are `fresh`, or else to be read only: some may be the host's own.

    It does not matter whether the model is unloaded, loaded in part or loaded and already patched: the host keeps the base weights.
    `device=None` leaves each tensor where it is. Tensors keep the model's own dtype, except scaled fp8, which comes as float32.
    """
    wrappers = ask(patcher, "weight_wrapper_patches", {})
    with torch.inference_mode(False), torch.no_grad():  # weights may be inference tensors, which cannot be trained through
        for key, parts in patcher.get_key_patches(prefix).items():
            if only is not None and key not in only:
                continue
            weight = _patched(key, parts, device, fresh or key in wrappers)
            for wrapper in wrappers.get(key, ()):
                weight = wrapper(weight)
            yield key, weight


def _patched(key: str, parts: Sequence[Any], device: torch.device | str | None, fresh: bool) -> Tensor:
    """One weight as ModelPatcher.patch_weight_to_device computes it: in float32, then rounded to the weight's own dtype."""
    (stored, convert), *patches = parts
    target = stored.device if device is None else torch.device(device)
    if not patches and not _is_converted(convert):
        return stored.detach().to(device=target, copy=True) if fresh or stored.device != target else _readable(stored)
    work = convert(stored.detach().to(device=target, dtype=torch.float32, copy=True), inplace=True)
    if patches:
        work = comfy.lora.calculate_weight(patches, work, key)
    if _is_converted(convert):
        return work
    return comfy.float.stochastic_rounding(work, stored.dtype, seed=_seed(key))


def _readable(weight: Tensor) -> Tensor:
    """The same memory as a tensor that autograd can go through: one made in inference mode cannot be a factor in a product."""
    alias = torch.empty(0, dtype=weight.dtype, device=weight.device)
    return alias.set_(weight.untyped_storage(), weight.storage_offset(), weight.shape, weight.stride())


def _seed(key: str) -> int:
    """The host's seed for rounding the weight of this name; its function has moved."""
    seed: int = (ask(comfy.utils, "string_to_seed") or comfy.model_patcher.string_to_seed)(key)
    return seed


def _is_converted(convert: Any) -> bool:
    """Whether a weight is stored in another form (scaled fp8); the host hands a lambda of its own when it is not."""
    return ask(convert, "__name__", "") != "<lambda>"


def weights_digest(patcher: Any) -> str:
    """sha256 (hex) over all weights really used; instant the second time for the same model and the same patches."""
    known = _digests.setdefault(patcher.model, {})
    if patcher.patches_uuid not in known:
        known[patcher.patches_uuid] = _digest(real_weights(patcher, device="cpu", fresh=False))
    return known[patcher.patches_uuid]


def _digest(weights: Iterator[tuple[str, Tensor]]) -> str:
    """sha256 over names, dtypes, shapes and bytes, in the order of the names so that loading order does not matter."""
    lines: list[str] = []
    waiting: deque[Future[str]] = deque()
    read: list[Tensor] = []
    with ThreadPoolExecutor() as pool:  # one core takes some ten seconds for SDXL
        for name, tensor in weights:
            waiting.append(pool.submit(_line, name, tensor))
            if mapped_files([tensor]):
                read.append(tensor)
            full = sum(each.nbytes for each in read) > _PAGES_AT_ONCE
            while len(waiting) > (0 if full else MOST_AHEAD):
                lines.append(waiting.popleft().result())
            if full:
                let_go_of_pages(read)
                read.clear()
        lines += [each.result() for each in waiting]
    let_go_of_pages(read)
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def let_go_of_pages(weights: Iterable[Tensor]) -> None:
    """Let the system have the main memory that reading these weights took, where the host maps their file; they can be read again.

    Newer hosts do so themselves after every node, for what they have read.
    """
    for file in mapped_files(weights):
        file.bounce()


def mapped_files(weights: Iterable[Tensor]) -> set[Any]:
    """The host's maps of the files that hold these weights."""
    references = (ask(weight.untyped_storage(), "_comfy_tensor_mmap_refs") for weight in weights)
    return {found[0] for found in references if found}


def _line(name: str, tensor: Tensor) -> str:
    content = hashlib.sha256(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data).hexdigest()
    return f"{name} {tensor.dtype} {tuple(tensor.shape)} {content}"
