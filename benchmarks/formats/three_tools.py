"""One adapter in three tools: ComfyUI's LoraLoader, diffusers, and `generate`, on the embedded model.

    B4M_COMFYUI=... python -m benchmarks.formats.three_tools docs/three_tools.webp

Two shipped examples are merged, saved, and taken apart; each tool paints the same prompt from the same seed. Writes the pictures side by
side, and prints the largest and the mean difference from `generate`, of 255.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from benchmarks import in_a_host

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("generate", "diffusers", "ComfyUI LoraLoader", "ComfyUI B4M Apply")
LOADS: dict[str, dict[str, float]] = {
    "no adapter": {},
    "both, one file": {"both": 1.0},
    "apart, 0.9 and 1.1": {"both_content": 0.9, "both_style": 1.1},
}
PROMPT, SEED = "a photo of a snq bird in the snow in w@z style", 0
PAIRS = (("diffusers", "generate"), ("ComfyUI LoraLoader", "ComfyUI B4M Apply"), ("ComfyUI LoraLoader", "generate"))
STEPS, GUIDANCE, SIDE = 20, 5.0, 192
Painter = Callable[[], Any]


def save(place: Path) -> Any:
    """The merged example and its two halves, as B4M saves them; the merged adapter."""
    core, apart = (importlib.import_module(f"b4m_pack.b4m_core{name}") for name in ("", ".apart"))
    pair = [core.load_adapter(ROOT / "adapters" / name) for name in ("content/flamingo.safetensors", "style/knitted.safetensors")]
    both = core.merge(*pair)
    core.save_adapter(both, place / "both.safetensors")
    for concept, one in apart.apart(both).items():
        core.save_adapter(one, place / f"both_{concept}.safetensors")
    return both


def painters(place: Path, both: Any, loads: dict[str, float]) -> dict[str, Painter]:
    """How each tool paints with these files at these strengths."""
    import comfy.sd
    import comfy.utils

    host, folder = (importlib.import_module(f"b4m_pack.{name}") for name in ("nodes.host", "b4m_core.diffusers_folder"))
    core = importlib.import_module("b4m_pack.b4m_core")
    tokenizer = Path(os.environ["B4M_COMFYUI"]) / "comfy" / "sd1_tokenizer"
    ours, theirs = (folder.DiffusersFolder(ROOT / "mini", tokenizer=tokenizer, steps=STEPS, guidance=GUIDANCE) for _ in range(2))
    for name, strength in loads.items():
        ours.with_adapter(core.load_adapter(place / f"{name}.safetensors"), strength, strength)
        theirs.pipeline.load_lora_weights(place, weight_name=f"{name}.safetensors", adapter_name=name)
    if loads:
        theirs.pipeline.set_adapters(list(loads), list(loads.values()))
    model, clip, vae = host.mini_model()
    by_loader = model
    for name, strength in loads.items():
        state = comfy.utils.load_torch_file(str(place / f"{name}.safetensors"), safe_load=True)
        by_loader, _ = comfy.sd.load_lora_for_models(by_loader, None, state, strength, 0)
    sampling = host.Sampling(steps=STEPS, guidance=GUIDANCE)
    sliders = {"content": loads.get("both_content", 1.0), "style": loads.get("both_style", 1.0), "detail": 1.0}
    by_node = host.apply_adapter(model, clip, both, sliders)[0] if loads else model
    hosts = [host.HostBaseModel(each, clip, vae, sampling=sampling) for each in (by_loader, by_node)]

    def painter(base: Any) -> Painter:
        return lambda: (base.sample(PROMPT, width=SIDE, height=SIDE, seed=SEED).clamp(0, 1) * 255).round().byte().numpy()

    return {tool: painter(base) for tool, base in zip(TOOLS, (ours, theirs, *hosts), strict=True)}


def main(out: Path) -> None:
    """Paint, draw and tell."""
    in_a_host.start(Path(os.environ["B4M_COMFYUI"]))
    gap, title, first = 6, 20, 130
    sheet = Image.new("RGB", (first + len(TOOLS) * (SIDE + gap), title + len(LOADS) * (SIDE + gap)), (250, 249, 246))
    draw = ImageDraw.Draw(sheet)
    with tempfile.TemporaryDirectory() as folder:
        both = save(Path(folder))
        for row, (name, loads) in enumerate(LOADS.items()):
            painted = {tool: paint() for tool, paint in painters(Path(folder), both, loads).items()}
            top = title + row * (SIDE + gap)
            draw.text((4, top + SIDE // 2), name, (40, 40, 46))
            for column, tool in enumerate(TOOLS):
                left = first + column * (SIDE + gap)
                draw.text((left, 4), tool, (40, 40, 46))
                sheet.paste(Image.fromarray(painted[tool]), (left, top))
            for left_tool, right_tool in PAIRS:
                off = abs(painted[left_tool].astype(int) - painted[right_tool])
                print(f"{name} | {left_tool} against {right_tool} | {off.max()} | {off.mean():.4f}", flush=True)
    sheet.save(out, quality=88)
    print(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
