"""The shipped workflows, written once here and built for the page and for /prompt from what a running ComfyUI says of its nodes.

    python -m launcher.graphs http://127.0.0.1:8188

writes workflows/*.json (for the page) and workflows/api/*.json (for /prompt).
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .client import Client

WORKFLOWS = Path(__file__).resolve().parents[1] / "workflows"
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
Info = dict[str, Any]


@dataclass(frozen=True)
class Wire:
    """The output ``name`` of the node ``key``."""

    key: str
    name: str


@dataclass(frozen=True)
class Node:
    """One node: its type, place and size on the canvas, and its inputs (values or wires)."""

    type: str
    at: tuple[int, int]
    size: tuple[int, int]
    inputs: dict[str, Any] = field(default_factory=dict)
    title: str = ""


@dataclass(frozen=True)
class Graph:
    """A workflow: nodes by key, and titled boxes (title, x, y, width, height) around them."""

    nodes: dict[str, Node]
    groups: tuple[tuple[str, int, int, int, int], ...] = ()
    note: str = ""


def _checkpoint(key: str) -> dict[str, Wire]:
    return {"model": Wire(key, "model"), "clip": Wire(key, "clip"), "vae": Wire(key, "vae")}


def _loader(key: str) -> dict[str, Wire]:
    return {"model": Wire(key, "MODEL"), "clip": Wire(key, "CLIP"), "vae": Wire(key, "VAE")}


@dataclass(frozen=True)
class Scale:
    """What differs between the embedded model and a real SDXL."""

    loader: Node
    wires: dict[str, Wire]
    content: dict[str, Any]
    style: dict[str, Any]
    apart: dict[str, Any]
    together: dict[str, Any]
    auxiliary: dict[str, Any]
    keeps_together: bool
    sliders: dict[str, Any]
    size: int
    prompt: str
    prompts: str


MINI_PROMPT = "a snq bird on the beach in w@z style"
MINI = Scale(
    loader=Node("B4MMiniModel", (40, 60), (300, 100), title="Model"),
    wires=_checkpoint("model"),
    content={"folder": "(demo content)", "trigger": "snq", "class_word": "bird", "caption": "a photo of a {trigger} {class}"},
    style={"folder": "(demo style)", "trigger": "w@z", "caption": "a {name} in {trigger} style"},
    apart={"steps": 100, "learning_rate": 1e-3, "rank": 16, "batch_size": 3, "gradient_accumulation_steps": 1, "sample_every": 50},
    together={"steps": 90, "learning_rate": 5e-4, "batch_size": 2, "gradient_accumulation_steps": 1, "sample_every": 45},
    auxiliary={"sets": 4, "pictures": 2},
    keeps_together=False,  # the demo has minutes, and preservation rows double what its last training computes
    sliders={},
    size=192,
    prompt=MINI_PROMPT,
    prompts=f"{MINI_PROMPT}\na snq bird in the snow in w@z style",
)
EXAMPLES = replace(MINI, prompt="a snq animal in the mountains in w@z style")
SDXL = Scale(
    loader=Node("CheckpointLoaderSimple", (40, 60), (300, 100), {"ckpt_name": "sd_xl_base_1.0.safetensors"}, title="Model"),
    wires=_loader("model"),
    content={"trigger": "snq", "class_word": "teddybear"},
    style={"trigger": "w@z", "caption": "a {name} in {trigger} style"},
    apart={},
    together={"steps": 100},
    auxiliary={},
    keeps_together=True,
    sliders={},
    size=1024,
    prompt="a snq teddybear in w@z style",
    prompts="a snq teddybear in w@z style\na snq teddybear on the beach in w@z style",
)


def _trainings(scale: Scale) -> dict[str, Node]:
    """Pictures and the three trainings, from left to right."""
    auxiliary = scale.wires | scale.auxiliary
    again = {"content_auxiliary": Wire("other_styles", "auxiliary"), "style_auxiliary": Wire("other_contents", "auxiliary")}
    return {
        "model": scale.loader,
        "content_pictures": Node("B4MPictures", (40, 220), (300, 260), scale.content, "Content: your subject"),
        "style_pictures": Node("B4MPictures", (40, 540), (300, 260), scale.style, "Style: your look"),
        "other_styles": Node(
            "B4MAuxiliaryPictures",
            (400, 60),
            (300, 230),
            auxiliary | {"kind": "other styles (for a content)"},
            "Other styles, beside the content",
        ),
        "other_contents": Node(
            "B4MAuxiliaryPictures",
            (400, 480),
            (300, 230),
            auxiliary | {"kind": "other contents (for a style)"},
            "Other contents, beside the style",
        ),
        "train_content": Node(
            "B4MTrainContent",
            (760, 60),
            (320, 1000),
            scale.wires | {"pictures": Wire("content_pictures", "pictures"), "auxiliary": Wire("other_styles", "auxiliary")} | scale.apart,
        ),
        "train_style": Node(
            "B4MTrainStyle",
            (1120, 60),
            (320, 1000),
            scale.wires | {"pictures": Wire("style_pictures", "pictures"), "auxiliary": Wire("other_contents", "auxiliary")} | scale.apart,
        ),
        "train_together": Node(
            "B4MTrainTogether",
            (1480, 60),
            (320, 1000),
            scale.wires
            | {"content": Wire("train_content", "adapter"), "style": Wire("train_style", "adapter")}
            | {"content_pictures": Wire("content_pictures", "pictures"), "style_pictures": Wire("style_pictures", "pictures")}
            | (again if scale.keeps_together else {})
            | scale.together
            | {"sample_prompt": scale.prompt},
        ),
        "save_content": Node(
            "B4MSaveAdapter", (760, 1250), (320, 120), {"adapter": Wire("train_content", "adapter"), "filename": "b4m_content"}
        ),
        "save_style": Node(
            "B4MSaveAdapter", (1120, 1250), (320, 120), {"adapter": Wire("train_style", "adapter"), "filename": "b4m_style"}
        ),
        "save": Node("B4MSaveAdapter", (1860, 60), (300, 150), {"adapter": Wire("train_together", "adapter"), "filename": "b4m_adapter"}),
    }


def _painting(scale: Scale, adapter: Wire, x: int) -> dict[str, Node]:
    """The adapter on the model, and one picture with it."""
    wires = scale.wires
    return {
        "apply": Node(
            "B4MApplyAdapter", (x, 310), (300, 140), {"model": wires["model"], "adapter": adapter} | scale.sliders, "Two sliders"
        ),
        "prompt": Node("CLIPTextEncode", (x, 510), (300, 110), {"clip": wires["clip"], "text": scale.prompt}, "Prompt"),
        "negative": Node("CLIPTextEncode", (x, 680), (300, 90), {"clip": wires["clip"], "text": ""}, "Negative prompt"),
        "canvas": Node("EmptyLatentImage", (x, 830), (300, 110), {"width": scale.size, "height": scale.size, "batch_size": 1}),
        "sample": Node(
            "KSampler",
            (x + 340, 60),
            (300, 270),
            {
                "model": Wire("apply", "model"),
                "positive": Wire("prompt", "CONDITIONING"),
                "negative": Wire("negative", "CONDITIONING"),
                "latent_image": Wire("canvas", "LATENT"),
                "seed": 0,
                "steps": 25,
                "cfg": 5.0,
                "sampler_name": "euler",
                "scheduler": "normal",
            },
        ),
        "decode": Node("VAEDecode", (x + 340, 380), (300, 50), {"samples": Wire("sample", "LATENT"), "vae": wires["vae"]}),
        "picture": Node("SaveImage", (x + 340, 480), (300, 380), {"images": Wire("decode", "IMAGE"), "filename_prefix": "b4m/picture"}),
    }


def _sheet(scale: Scale, adapter: Wire, x: int) -> dict[str, Node]:
    pictures = {"content_pictures": Wire("content_pictures", "pictures"), "style_pictures": Wire("style_pictures", "pictures")}
    return {
        "sheet": Node(
            "B4MContactSheet",
            (x, 60),
            (340, 330),
            scale.wires | pictures | {"adapter": adapter, "prompts": scale.prompts, "size": scale.size},
        ),
        "sheet_file": Node(
            "SaveImage", (x, 460), (520, 580), {"images": Wire("sheet", "sheet"), "filename_prefix": "b4m/contact_sheet"}, "Contact sheet"
        ),
    }


def _content_in_style(scale: Scale, note: str) -> Graph:
    adapter = Wire("save", "adapter")
    nodes = _trainings(scale) | _painting(scale, adapter, 1860) | _sheet(scale, adapter, 2560)
    groups = (
        ("1  Pictures", 20, 0, 700, 1560),
        ("2  Train content, style, then both together", 740, 0, 1080, 1560),
        ("3  Paint", 1840, 0, 680, 1560),
        ("4  Compare", 2540, 0, 560, 1560),
    )
    return Graph(nodes, groups, note)


def _mix_and_match(scale: Scale, content: str, style: str, note: str) -> Graph:
    adapters = {
        "model": scale.loader,
        "content": Node("B4MLoadAdapter", (40, 220), (300, 80), {"filename": content}, "Any content"),
        "style": Node("B4MLoadAdapter", (40, 410), (300, 80), {"filename": style}, "Any style"),
        "merge": Node("B4MMergeAdapters", (40, 600), (300, 70), {"content": Wire("content", "adapter"), "style": Wire("style", "adapter")}),
        "facts": Node("B4MAdapterFacts", (40, 750), (300, 260), {"adapter": Wire("merge", "adapter")}),
    }
    groups = (("1  Choose", 20, 0, 340, 1050), ("2  Paint", 380, 0, 680, 1050))
    return Graph(adapters | _painting(scale, Wire("merge", "adapter"), 400), groups, note)


GRAPHS = {
    "b4m_content_in_style": _content_in_style(
        MINI, "Press Run: it trains on the small model that comes with B4M. Then put in your own pictures."
    ),
    "b4m_content_in_style_sdxl": _content_in_style(
        SDXL, "The same on a real SDXL: choose your checkpoint and your two folders of pictures."
    ),
    "b4m_mix_and_match": _mix_and_match(
        MINI,
        "b4m_content.safetensors",
        "b4m_style.safetensors",
        "Any trained content with any trained style, without training. Choose the model that they were trained on.",
    ),
    "b4m_mix_examples": _mix_and_match(
        EXAMPLES,
        "(example content) fox",
        "(example style) stained glass",
        "Press Run: nothing is trained. Eight contents and eight styles come with B4M; choose any two. A prompt calls a content by its "
        "class word: `snq animal` for the fox, `snq bird` (penguin, flamingo), `snq vehicle` (rocket, tractor), `snq toy` (teddy bear), "
        "`snq food` (doughnut), `snq instrument` (guitar). All styles are `w@z style`.",
    ),
}


def api_format(graph: Graph, info: Info) -> dict[str, Any]:
    """The graph for /prompt, with every widget spelled out."""
    numbers = {key: str(index + 1) for index, key in enumerate(graph.nodes)}
    result = {}
    for key, node in graph.nodes.items():
        inputs = {name: _default(spec) for name, spec in _inputs(info[node.type]) if _is_widget(spec)} | node.inputs
        wired = {
            name: [numbers[value.key], _slot(graph, value, info)] if isinstance(value, Wire) else value for name, value in inputs.items()
        }
        result[numbers[key]] = {"class_type": node.type, "inputs": wired, "_meta": {"title": node.title or info[node.type]["display_name"]}}
    return result


def page_format(graph: Graph, info: Info) -> dict[str, Any]:
    """The graph for the page's canvas."""
    numbers = {key: index + 1 for index, key in enumerate(graph.nodes)}
    links: list[list[Any]] = []
    nodes = [_page_node(key, node, graph, info, numbers, links) for key, node in graph.nodes.items()]
    for link in links:
        output = nodes[link[1] - 1]["outputs"][link[2]]
        output["links"] = (output["links"] or []) + [link[0]]
    if graph.note:
        nodes.append(_note(len(nodes) + 1, graph.note))
    groups = [
        {"id": index + 1, "title": title, "bounding": [x, y, width, height], "color": "#3f789e", "font_size": 24, "flags": {}}
        for index, (title, x, y, width, height) in enumerate(graph.groups)
    ]
    return {
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": groups,
        "config": {},
        "extra": {"ds": {"scale": 0.6, "offset": [60, 120]}},
        "version": 0.4,
    }


def _page_node(key: str, node: Node, graph: Graph, info: Info, numbers: dict[str, int], links: list[list[Any]]) -> dict[str, Any]:
    facts = info[node.type]
    inputs: list[dict[str, Any]] = []
    values: list[Any] = []
    for name, spec in _inputs(facts):
        value = node.inputs.get(name)
        if _is_widget(spec):
            values.append(_default(spec) if value is None else value)
            if len(spec) > 1 and spec[1].get("control_after_generate"):
                values.append("fixed")
            continue
        entry: dict[str, Any] = {"name": name, "type": spec[0], "link": None}
        if isinstance(value, Wire):
            link = [len(links) + 1, numbers[value.key], _slot(graph, value, info), numbers[key], len(inputs), spec[0]]
            links.append(link)
            entry["link"] = link[0]
        inputs.append(entry)
    outputs = [{"name": name, "type": kind, "links": None} for name, kind in zip(facts["output_name"], facts["output"], strict=True)]
    return {
        "id": numbers[key],
        "type": node.type,
        "pos": list(node.at),
        "size": list(node.size),
        "flags": {},
        "order": numbers[key] - 1,
        "mode": 0,
        "inputs": inputs,
        "outputs": outputs,
        **({"title": node.title} if node.title else {}),
        "properties": {"Node name for S&R": node.type},
        "widgets_values": values,
    }


def _note(number: int, text: str) -> dict[str, Any]:
    return {
        "id": number,
        "type": "MarkdownNote",
        "pos": [40, -160],
        "size": [660, 120],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "title": "B4M",
        "properties": {},
        "widgets_values": [text],
        "color": "#432",
        "bgcolor": "#653",
    }


def _inputs(facts: Info) -> list[tuple[str, Any]]:
    parts = facts["input"]
    return [item for part in ("required", "optional") for item in parts.get(part, {}).items()]


def _is_widget(spec: Any) -> bool:
    forced = len(spec) > 1 and spec[1].get("forceInput")
    return not forced and (isinstance(spec[0], list) or spec[0] in WIDGETS)


def _default(spec: Any) -> Any:
    options = spec[1] if len(spec) > 1 else {}
    choices = spec[0] if isinstance(spec[0], list) else options.get("options", [])
    return options.get("default", choices[0] if choices else "")


def _slot(graph: Graph, wire: Wire, info: Info) -> int:
    names = info[graph.nodes[wire.key].type]["output_name"]
    return int(names.index(wire.name))


def build(info: Info) -> dict[str, str]:
    """Every shipped file, by its path below workflows/, as text."""
    files = {}
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
