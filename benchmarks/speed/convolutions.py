"""What it costs to adapt the convolutions too: a step, its memory and the file, with them and without, ours and PEFT's LoCon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from b4m_core import lora_state_dict
from b4m_core.layers import ATTENTION, CONVOLUTIONS, LAYERS
from b4m_core.planner import MEMORY_MODES

from . import peers
from .clock import tidy
from .network import EMBEDDED, as_others_have_it, inputs_of, new_adapter, random_network
from .ours import Ours

if TYPE_CHECKING:
    from .parts import Bench

ROWS, EMBEDDED_SIZE, EMBEDDED_RANK = 2, 192, 16
WORDS = {ATTENTION: "attention", CONVOLUTIONS: "attention and convolutions"}


def convolutions(bench: Bench) -> None:
    """As a training has it by default: free split, one own and one preservation picture, half of the benchmark's rank; on a card the
    embedded model too.
    """
    _measured(bench, bench.unet, "", bench.sizes, bench.rank // 2)
    if bench.real:
        unet = random_network(EMBEDDED, bench.device, bench.dtype)
        _measured(bench, unet, ", embedded model", (EMBEDDED_SIZE,), EMBEDDED_RANK)


def _measured(bench: Bench, unet: Any, model: str, sizes: tuple[int, ...], rank: int) -> None:
    ways = 2 if bench.device.type == "cuda" and unet is bench.unet else 1  # whole steps, and activations computed twice
    for layers in LAYERS:
        adapter = new_adapter(unet, rank, "free", layers)
        tensors = lora_state_dict(adapter.with_facts(file_dtype="float16")).values()
        megabytes = sum(tensor.nbytes for tensor in tensors) / 1e6
        bench.facts[f"MB of a file, {WORDS[layers]}, rank {rank}{model}"] = megabytes
        print(f"{WORDS[layers]}, rank {rank}{model}: a file of {megabytes:.1f} MB", flush=True)
        for size in sizes:
            mine = Ours(unet, adapter, bench.device, correspondence="output_preservation")
            for way in range(ways):
                how = f": {MEMORY_MODES[way].words}" if way else ""
                bench.take(f"B4M, {WORDS[layers]}, rank {rank}{model}{how}", size, mine.whole(inputs_of(unet, size, ROWS)))
                mine.next_way()
            mine.close()
            del mine
            tidy()
        del adapter
    as_others_have_it(unet)
    for layers in LAYERS:
        peer = peers.Peft(unet, rank, bench.dtype, layers)
        for size in sizes:
            given = inputs_of(unet, size, ROWS, bench.device)
            cast = {name: given[name].to(bench.dtype) for name in ("noisy", "context", "pooled")}
            bench.take(f"diffusers + PEFT, {WORDS[layers]}, rank {rank}{model}", size, peer.whole(given | cast))
        peer.close()
        tidy()


def agreement(bench: Bench) -> dict[str, float]:
    """How far the fused step's gradients are from the plain step's on one batch, relative to their norm, by kind of layer."""
    gradients = []
    adapter = new_adapter(bench.unet, bench.rank // 2, "free", CONVOLUTIONS)
    for plain in (True, False):
        mine = Ours(bench.unet, adapter, bench.device, plain=plain, correspondence="output_preservation")
        batch = inputs_of(bench.unet, bench.sizes[0], ROWS)
        rows = mine.engine.training.rows(1, ROWS)
        mine.engine.learned.zero_grad()
        mine.engine.micro_step({name: value.to(bench.device) for name, value in batch.items()}, 1, rows, preserve=True)
        named = {
            f"{layer.name} {part}": stack.parts[part].grad[index].float().cpu()  # type: ignore[index]
            for stack in mine.engine.learned.stacks
            for part in ("A", "D")
            for index, layer in enumerate(stack.layers)
        }
        gradients.append(named)
        mine.close()
        as_others_have_it(bench.unet)
        tidy()
    plain_ones, fused_ones = gradients
    found = {}
    for kind in ("attention", "convolutions"):
        names = [name for name in plain_ones if (".attn" in name) is (kind == "attention")]
        off = torch.stack([(fused_ones[name] - plain_ones[name]).square().sum() for name in names]).sum()
        whole = torch.stack([plain_ones[name].square().sum() for name in names]).sum()
        found[kind] = float((off / whole).sqrt())
        bench.facts[f"fused against plain gradients, {kind}"] = found[kind]
        print(f"fused against plain gradients, {kind}: {found[kind]:.2e} of their norm", flush=True)
    return found
