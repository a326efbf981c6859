"""The weights that a MODEL, CLIP or VAE really has: base weights with every upstream patch applied, as the host applies them."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import weakref
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import comfy.float
import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch
from torch import Tensor

from .asking import ask
from .stored import Stored, numbers_of, opened, plain, stored_weights

MOST_AHEAD = 8  # weights that wait for their digest: each may be a copy
_PAGES_AT_ONCE = 2**29  # bytes of a mapped file that are read before its pages are let go

_digests: weakref.WeakKeyDictionary[torch.nn.Module, dict[object, str]] = weakref.WeakKeyDictionary()


def real_weights(
    patcher: Any,
    prefix: str = "",
    device: torch.device | str | None = None,
    only: Container[str] | None = None,
    *,
    fresh: bool = True,
    at: torch.device | None = None,
    opened_as: torch.dtype = torch.float32,
) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) for every weight of a ModelPatcher, or those in `only`, patches applied, without touching the patcher.

    The tensors are `fresh`, or else to be read only: some may be the host's own. They have the layers' shapes and can be trained through.
    Plain ones keep the model's own dtype; quantised ones are numbers in `opened_as`, rounded as the host rounds them when patched.

    Args:
        device: where the tensors are to be; None leaves each where it is.
        at: where they are opened and patched, by default there too.
    """
    with torch.inference_mode(False), torch.no_grad():  # weights may be inference tensors, which cannot be trained through
        read: list[Tensor] = []
        for stored in stored_weights(patcher, prefix):
            if only is None or stored.key in only:
                target = stored.tensor.device if device is None else torch.device(device)
                yield stored.key, _real(patcher, stored, target, target if at is None else at, fresh, opened_as)
                if fresh and _is_much(read, stored.tensor):
                    let_go_of_pages(read)
                    read.clear()
        let_go_of_pages(read)


def _real(patcher: Any, stored: Stored, target: torch.device, at: torch.device, fresh: bool, opened_as: torch.dtype) -> Tensor:
    patches = patcher.patches.get(stored.key, [])
    wrappers = ask(patcher, "weight_wrapper_patches", {}).get(stored.key, ())
    if stored.is_plain and not patches and not wrappers:
        return plain(stored).to(device=target, copy=fresh)
    weight = _patched(stored, patches, at) if patches else opened(stored, at)
    if wrappers:
        weight = weight.to(_computing_dtype(patcher))
        for wrapper in wrappers:
            weight = wrapper(weight)
    elif not stored.is_plain:
        weight = weight.to(opened_as)
    return weight.to(target)


def _patched(stored: Stored, patches: Sequence[Any], device: torch.device) -> Tensor:
    """One weight as ModelPatcher.patch_weight_to_device computes it: in the host's dtype for that, then stored anew as it was."""
    work = comfy.lora.calculate_weight(patches, opened(stored, device, _patching_dtype(device)), stored.key)
    if stored.is_packed:
        return work  # the layer patches what it has just unpacked
    store: Callable[..., Tensor] | None = ask(stored.layer, f"set_{stored.name}")
    if store is None:
        return comfy.float.stochastic_rounding(work, plain(stored).dtype, seed=_seed(stored.key))
    if "return_weight" not in inspect.signature(store).parameters:
        return work  # the oldest hosts can only store it in the model itself
    again = store(work, inplace_update=False, seed=_seed(stored.key), return_weight=True)
    return numbers_of(stored, again.to(dtype=torch.float32, copy=True))


def _patching_dtype(device: torch.device) -> torch.dtype:
    dtype: torch.dtype = ask(comfy.model_management, "lora_compute_dtype", lambda _: torch.float32)(device)
    return dtype


def _computing_dtype(patcher: Any) -> torch.dtype:
    """What the host's layers multiply in, a node that sets it upstream included."""
    cast = patcher.object_patches.get("manual_cast_dtype") or ask(patcher.model, "manual_cast_dtype")
    return cast or patcher.model_dtype() or torch.float32


def _seed(key: str) -> int:
    """The host's seed for rounding the weight of this name; its function has moved."""
    seed: int = (ask(comfy.utils, "string_to_seed") or comfy.model_patcher.string_to_seed)(key)
    return seed


def weights_digest(patcher: Any) -> str:
    """sha256 (hex) over all weights really used; instant the second time for the same model and the same patches."""
    known = _digests.setdefault(patcher.model, {})
    replaced = (item for item in patcher.object_patches.items() if isinstance(item[1], (torch.nn.Module, Tensor)))
    state = (patcher.patches_uuid, *sorted((name, id(part)) for name, part in replaced))
    if state not in known:
        known[state] = _digest(real_weights(patcher, device="cpu", fresh=False))
    return known[state]


def _digest(weights: Iterator[tuple[str, Tensor]]) -> str:
    """sha256 over names, dtypes, shapes and bytes, in the order of the names so that loading order does not matter."""
    lines: list[str] = []
    waiting: deque[Future[str]] = deque()
    read: list[Tensor] = []
    with ThreadPoolExecutor() as pool:  # one core takes some ten seconds for SDXL
        for name, tensor in weights:
            waiting.append(pool.submit(_line, name, tensor))
            much = _is_much(read, tensor)
            while len(waiting) > (0 if much else MOST_AHEAD):  # nobody may read while pages go
                lines.append(waiting.popleft().result())
            if much:
                let_go_of_pages(read)
                read.clear()
        lines += [each.result() for each in waiting]
    let_go_of_pages(read)
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def let_go_of_pages(weights: Iterable[Tensor]) -> None:
    """Let the system have the main memory that reading these weights took, where the host maps their file; they can be read again.

    Newer hosts do so themselves after every node, for what they have read.
    """
    for file in _mapped_files(weights):
        file.bounce()


def _is_much(read: list[Tensor], weight: Tensor) -> bool:
    """Note a weight of a mapped file as read; whether it is time to let pages go."""
    if _mapped_files([weight]):
        read.append(weight)
    return sum(each.nbytes for each in read) > _PAGES_AT_ONCE


def _mapped_files(weights: Iterable[Tensor]) -> set[Any]:
    """The host's maps of the files that hold these weights."""
    found = set()
    for weight in weights:
        with contextlib.suppress(RuntimeError):  # of a kind that has no memory of its own
            numbers: Tensor = ask(weight, "_qdata", weight)  # the host's quantised ones are wrapped
            references = ask(numbers.untyped_storage(), "_comfy_tensor_mmap_refs")
            found |= {references[0]} if references else set()
    return found


def _line(name: str, tensor: Tensor) -> str:
    content = hashlib.sha256(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data).hexdigest()
    return f"{name} {tensor.dtype} {tuple(tensor.shape)} {content}"
