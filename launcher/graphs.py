"""The shipped workflows, written once here and built for the page and for /prompt from what a running ComfyUI says of its nodes.

    python -m launcher.graphs http://127.0.0.1:8188

writes workflows/*.json (for the page) and workflows/api/*.json (for /prompt). The template browser sorts them by name.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .client import Client
from .workflow_format import Graph, Info, Node, Note, Wire, api_format, page_format

WORKFLOWS = Path(__file__).resolve().parents[1] / "workflows"
SDXL_BASE = {
    "name": "sd_xl_base_1.0.safetensors",
    "url": "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/sd_xl_base_1.0.safetensors?download=true",
    "directory": "checkpoints",
}
"""The checkpoint and its VAE in one file."""


CONTENT, STYLE, BOTH = ("#1f3d52", "#2b536e"), ("#4a2540", "#643257"), ("#28462f", "#365c3f")
"""Title and body of nodes that have to do with content, with style, with both: as web/b4m_faces.js has them."""


@dataclass(frozen=True)
class Model:
    """A base model: its loader, the names of the loader's outputs, and what its graphs say."""

    loader: Node
    outputs: tuple[str, str, str]
    content: dict[str, Any]
    style: dict[str, Any]
    size: int

    @property
    def wires(self) -> dict[str, Wire]:
        """Model, text encoders and VAE for the nodes that ask for all three."""
        return {name: Wire("model", output) for name, output in zip(("model", "clip", "vae"), self.outputs, strict=True)}


MINI = Model(
    Node("B4MMiniModel", (0, 0), (300, 100), title="Model"),
    ("model", "clip", "vae"),
    {"folder": "(demo content)", "trigger": "snq", "class_word": "bird", "caption": "a photo of a {trigger} {class}"},
    {"folder": "(demo style)", "trigger": "w@z", "caption": "a {name} in {trigger} style"},
    192,
)
SDXL = Model(
    Node("CheckpointLoaderSimple", (0, 0), (300, 100), {"ckpt_name": SDXL_BASE["name"]}, title="Model", models=(SDXL_BASE,)),
    ("MODEL", "CLIP", "VAE"),
    {"trigger": "snq", "class_word": "teddybear"},
    {"trigger": "w@z", "caption": "a {name} in {trigger} style"},
    1024,
)


@dataclass
class Canvas:
    """A graph in the making."""

    model: Model
    nodes: dict[str, Node] = field(default_factory=dict)

    def add(self, key: str, kind: str, at: tuple[int, int], size: tuple[int, int], title: str = "", /, **inputs: Any) -> None:
        """One more node."""
        self.nodes[key] = Node(kind, at, size, inputs, title, colours=_colours(key))

    def load_model(self, at: tuple[int, int]) -> None:
        """The loader of the base model."""
        loader = self.model.loader
        self.nodes["model"] = Node(loader.type, at, loader.size, loader.inputs, loader.title, loader.models)

    def pictures(self, content: tuple[int, int], style: tuple[int, int], height: int) -> None:
        """The two sets."""
        self.add("content_pictures", "B4MPictures", content, (300, height), "Content: your subject", **self.model.content)
        self.add("style_pictures", "B4MPictures", style, (300, height), "Style: your look", **self.model.style)

    def both_pictures(self) -> dict[str, Wire]:
        """The wires of both sets."""
        return {name: Wire(name, "pictures") for name in ("content_pictures", "style_pictures")}

    def saved_picture(self, image: Wire, at: tuple[int, int], size: tuple[int, int], name: str = "picture", title: str = "") -> None:
        """A node of the host's that saves a picture and shows it."""
        self.add(name, "SaveImage", at, size, title, images=image, filename_prefix=f"b4m/{name.removesuffix('_file')}")


def _colours(key: str) -> tuple[str, str] | None:
    """By what a node is for, as its key says."""
    if key.startswith("other_styles"):
        return CONTENT  # they stand beside the content
    if key.startswith("other_contents"):
        return STYLE
    if key in ("train", "train_together", "merge"):
        return BOTH
    return CONTENT if "content" in key else STYLE if "style" in key else None


def _one_node(model: Model, preset: str, text: str) -> Graph:
    """From two sets of pictures to the picture: one training node, one that paints."""
    canvas = Canvas(model)
    both = Wire("train", "both")
    canvas.pictures((0, 0), (330, 0), height=500)
    canvas.load_model((330, 590))
    canvas.add("train", "B4MTrain", (660, 0), (340, 860), **model.wires, **canvas.both_pictures(), preset=preset)
    canvas.add("paint", "B4MPaint", (1030, 0), (340, 300), **model.wires, adapter=both, prompt="a {content} in {style}", seed=0)
    canvas.saved_picture(Wire("paint", "image"), (1030, 385), (340, 300))  # above the page's map of the workflow
    canvas.add("save", "B4MSaveAdapter", (330, 775), (300, 120), adapter=both, filename="b4m_both")
    return Graph(canvas.nodes, Note(text, (0, 590), (300, 270)))


def _by_single_nodes(model: Model, text: str) -> Graph:
    """The same by the single nodes, with everything saved, host's nodes for the picture, and a contact sheet."""
    canvas = Canvas(model)
    wires = model.wires
    canvas.load_model((20, 260))
    canvas.pictures((20, 420), (20, 960), height=440)
    _trainings(canvas, wires)
    for key, x in (("content", 760), ("style", 1140)):
        canvas.add(f"save_{key}", "B4MSaveAdapter", (x, 1000), (320, 200), adapter=Wire(f"train_{key}", "adapter"), filename=f"b4m_{key}")
    canvas.add("save", "B4MSaveAdapter", (1520, 1000), (320, 200), adapter=Wire("train_together", "adapter"), filename="b4m_adapter")
    _painting(canvas, Wire("save", "adapter"), 1920, "a snq bird on the beach in w@z style")
    canvas.add(
        "sheet", "B4MContactSheet", (2660, 60), (340, 400), **wires, **canvas.both_pictures(), adapter=Wire("save", "adapter"),
        prompts="a snq bird on the beach in w@z style\na snq bird in the snow in w@z style", size=model.size,
    )  # fmt: skip
    canvas.saved_picture(Wire("sheet", "sheet"), (2660, 540), (560, 640), "contact_sheet_file", "Contact sheet")
    groups = (
        ("1  Pictures", 0, -20, 700, 1520),
        ("2  Train content, style, then both together", 740, -20, 1120, 1520),
        ("3  Paint", 1900, -20, 700, 1520),
        ("4  Compare", 2640, -20, 600, 1520),
    )
    return Graph(canvas.nodes, Note(text, (20, 60), (300, 160)), groups, scale=0.62, offset=(110, 244))


def _trainings(canvas: Canvas, wires: dict[str, Wire]) -> None:
    """Auxiliary pictures and the three trainings, from left to right."""
    for key, y, kind in (("styles", 60, "other styles (for a content)"), ("contents", 560, "other contents (for a style)")):
        canvas.add(f"other_{key}", "B4MAuxiliaryPictures", (360, y), (320, 340), f"Other {key}", **wires, kind=kind, sets=4, pictures=2)
    for key, x, other in (("content", 760, "styles"), ("style", 1140, "contents")):
        canvas.add(
            f"train_{key}", f"B4MTrain{key.capitalize()}", (x, 60), (320, 700), f"B4M Train {key.capitalize()} LoRA", **wires,
            pictures=Wire(f"{key}_pictures", "pictures"), auxiliary=Wire(f"other_{other}", "auxiliary"),
        )  # fmt: skip
    adapters = {key: Wire(f"train_{key}", "adapter") for key in ("content", "style")}
    canvas.add("train_together", "B4MTrainTogether", (1520, 60), (320, 700), **wires, **adapters, **canvas.both_pictures())


def _painting(canvas: Canvas, adapter: Wire, x: int, prompt: str) -> None:
    """The adapter on the model, and one picture with it by the host's own nodes."""
    wires = canvas.model.wires
    to_apply, clip = {name: wires[name] for name in ("model", "clip")}, Wire("apply", "clip")
    canvas.add("apply", "B4MApplyAdapter", (x, 60), (300, 150), "Two sliders", **to_apply, adapter=adapter)
    canvas.add("prompt", "CLIPTextEncode", (x, 290), (300, 130), "Prompt", clip=clip, text=prompt)
    canvas.add("negative", "CLIPTextEncode", (x, 500), (300, 110), "Negative prompt", clip=clip, text="")
    size = canvas.model.size
    canvas.add("canvas", "EmptyLatentImage", (x, 690), (300, 130), width=size, height=size, batch_size=1)
    canvas.add(
        "sample", "KSampler", (x + 340, 60), (300, 290), model=Wire("apply", "model"), positive=Wire("prompt", "CONDITIONING"),
        negative=Wire("negative", "CONDITIONING"), latent_image=Wire("canvas", "LATENT"), seed=0, steps=25, cfg=5.0,
        sampler_name="euler", scheduler="normal",
    )  # fmt: skip
    canvas.add("decode", "VAEDecode", (x + 340, 430), (300, 50), samples=Wire("sample", "LATENT"), vae=wires["vae"])
    canvas.saved_picture(Wire("decode", "IMAGE"), (x + 340, 560), (300, 400))


def _two_loaded(model: Model, content: str, style: str) -> Canvas:
    """A content and a style from files, merged."""
    canvas = Canvas(model)
    canvas.load_model((20, 60))
    canvas.add("content", "B4MLoadAdapter", (20, 240), (300, 80), "Any content", filename=content, use_as="content")
    canvas.add("style", "B4MLoadAdapter", (20, 400), (300, 80), "Any style", filename=style, use_as="style")
    pair = {key: Wire(key, "adapter") for key in ("content", "style")}
    canvas.add("merge", "B4MMergeAdapters", (20, 560), (300, 150), **pair)
    return canvas


_SMALL: dict[str, Any] = {"scale": 0.72, "offset": (99, 217)}
"""The view of a graph that is small enough to be seen larger."""


def _mix_examples(text: str) -> Graph:
    canvas = _two_loaded(MINI, "(example content) fox", "(example style) stained glass")
    prompt = "a {content} in the mountains in {style}"
    canvas.add("paint", "B4MPaint", (360, 60), (340, 330), **MINI.wires, adapter=Wire("merge", "adapter"), prompt=prompt, seed=0)
    canvas.saved_picture(Wire("paint", "image"), (740, 60), (380, 440))
    return Graph(canvas.nodes, Note(text, (360, 520), (340, 200)), **_SMALL)


def _strength_table(text: str) -> Graph:
    canvas = _two_loaded(MINI, "(example content) tractor", "(example style) blueprint")
    canvas.add(
        "table", "B4MStrengthTable", (360, 60), (340, 330), **MINI.wires, adapter=Wire("merge", "adapter"),
        prompt="a snq vehicle on the grass in w@z style", content_strengths="0, 0.5, 1, 1.5", style_strengths="0, 0.5, 1, 1.5",
        size=MINI.size, steps=15,
    )  # fmt: skip
    canvas.saved_picture(Wire("table", "sheet"), (740, 60), (480, 500), "strengths")
    return Graph(canvas.nodes, Note(text, (360, 560), (340, 200)), **_SMALL)


def _library(text: str) -> Graph:
    canvas = _two_loaded(MINI, "(example content) penguin", "(example style) knitted")
    canvas.add("facts", "B4MAdapterFacts", (20, 800), (300, 260), adapter=Wire("merge", "adapter"))
    canvas.add("save", "B4MSaveAdapter", (380, 860), (300, 200), adapter=Wire("merge", "adapter"), filename="b4m_mix")
    _painting(canvas, Wire("merge", "adapter"), 380, "a snq bird in the snow in w@z style")
    return Graph(canvas.nodes, Note(text, (1060, 60), (300, 300)), scale=0.6, offset=(115, 220))


GRAPHS = {
    "b4m_1_first_minute": _one_node(
        MINI,
        "quick",
        "## From your pictures to the picture\n"
        "1. Press **Run**. It trains on the small model that comes with B4M, as long as the green node says.\n"
        "2. Move **content** and **style** on *B4M Paint*, press **Run** again: nothing is trained twice.\n"
        "3. Put in your own pictures, then take *b4m_5_sdxl*.",
    ),
    "b4m_2_full_graph": _by_single_nodes(
        MINI, "The same step by step: **Run** trains content, style, then both, saves all three and compares. Five minutes on two cores."
    ),
    "b4m_3_mix_examples": _mix_examples(
        "## Any content in any style\n"
        "Press **Run**: nothing is trained. Eight contents and eight styles come with B4M; choose any two, and press **Run** again. "
        "In the prompt **{content}** and **{style}** become their trigger words."
    ),
    "b4m_4_your_library": _library(
        "## Your saved LoRAs\n"
        "Choose any content and any style that you trained on one model, and put in that model in place of *Model*. "
        "*Facts* shows the trigger words for the prompt. Nothing is trained; *Save* keeps the mix as an ordinary LoRA."
    ),
    "b4m_5_sdxl": _one_node(
        SDXL,
        "normal",
        "## On a real SDXL\n"
        "1. Choose your checkpoint, and a folder of three to ten pictures for either set.\n"
        "2. Say what the subject is (*class_word*), and a new word for it and for the style.\n"
        "3. **Run**. *quick* shows whether your pictures work; *normal* is for use.\n\n"
        "Subject weak? content up to 1.5. Subject lost in the style? style down to 0.6.",
    ),
    "b4m_6_strength_table": _strength_table(
        "## How much of each?\n"
        "Press **Run**: one prompt at 4 x 4 strengths, nothing is trained. Too weak: go right (content) or down (style). Overcooked: go "
        "left or up. Set the pair that you like on *B4M Paint with LoRA* or *B4M Apply LoRA*."
    ),
}


def build(info: Info) -> dict[str, str]:
    """Every shipped file, by its path below workflows/, as text."""
    files: dict[str, str] = {}
    for name, graph in GRAPHS.items():
        files[f"{name}.json"] = json.dumps(page_format(graph, info), indent=1) + "\n"
        files[f"api/{name}.json"] = json.dumps(api_format(graph, info), indent=1) + "\n"
    return files


def main(address: str) -> None:
    for name, text in build(Client(address).node_types()).items():
        path = WORKFLOWS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main(sys.argv[1])
