"""60 names that would lead out of a folder, in every input that is a folder's or a file's name, through a real server's /prompt.

A private folder with a picture, a caption and an adapter lies beside the server's own. A name is lost when its node succeeds, when what it
says quotes a private file, when an error is not our sentence, or when anything outside of the server's folders has changed.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from PIL import Image

from launcher.client import Client, Graph
from launcher.hosts import Host, version_of
from launcher.ports import choose
from launcher.server import running

from .row import Row

SECRET = "the private words"
EXAMPLE = "(example content)"
WORDS = {"trigger": "snq", "class_word": "cat", "caption": "a {trigger}", "use_masks": True}


def names(outside: Path) -> list[str]:
    """60 of them; ``outside`` is the private folder, as an absolute path too."""
    up = [f"{'../' * depth}{rest}" for depth in (1, 2, 3, 9) for rest in ("private", "private/x", "private/x.safetensors", "")]
    more = [
        "", ".", "..", "/", "//", "~", "~/x", "$HOME", "%2e%2e/private", "..\\private", "..\\..\\private\\x", "....//private",
        ".../private", "./x", "x/..", "x/../../private", "x//y", "x/./y", "/etc/passwd", "/etc", "/proc/self/environ", "/dev/zero",
        "C:\\Windows", "C:/Windows", "c:x", "\\\\server\\share", "//server/share", "\\\\?\\C:\\x", "file:///etc/passwd",
        "http://127.0.0.1/x", "link_out", "link_out/x", "link_up", "link_up/private", "x\0", "\0", "\ud83d", "x\n../private", "con",
        "nul.safetensors", "x:stream", "x" * 300, "猫" * 120, "\u2025/private", "\uff0e\uff0e/private", str(outside), str(outside / "x"),
    ]  # fmt: skip
    return [*up, *more]


@dataclass
class Came:
    """What a name or a value came to, for each input."""

    tries: int = 0
    lost: list[str] = field(default_factory=list)


def graphs(name: str) -> Iterator[tuple[str, Graph, str]]:
    """(input, graph, node that has it) for every input that is a name."""
    yield "B4MPictures.folder", {"1": {"class_type": "B4MPictures", "inputs": {"folder": name, **WORDS}}}, "1"
    auxiliary = {"kind": "other styles (for a content)", "folder": name, "sets": 1, "pictures": 1, "resolution": 64}
    wires = {"model": ["2", 0], "clip": ["2", 1], "vae": ["2", 2]}
    yield (
        "B4MAuxiliaryPictures.folder",
        {
            "1": {"class_type": "B4MAuxiliaryPictures", "inputs": {**wires, **auxiliary}},
            "2": {"class_type": "B4MMiniModel", "inputs": {}},
            "3": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
        },
        "1",
    )
    shown = {"class_type": "B4MAdapterFacts", "inputs": {"adapter": ["1", 0]}}
    yield "B4MLoadAdapter.filename", {"1": {"class_type": "B4MLoadAdapter", "inputs": {"filename": name}}, "2": shown}, "1"
    load = {"class_type": "B4MLoadAdapter", "inputs": {"filename": EXAMPLE}}
    save = {"class_type": "B4MSaveAdapter", "inputs": {"adapter": ["2", 0], "filename": name, "replace": True}}
    yield "B4MSaveAdapter.filename", {"1": save, "2": load}, "1"


def lay_out(base: Path) -> Path:
    """A private folder beside ``base``, and links to it from the server's own folders; returns the private one."""
    outside = base.parent / "private"
    (outside / "x").mkdir(parents=True, exist_ok=True)
    for place in (outside, outside / "x"):
        Image.new("RGB", (64, 64)).save(place / "x.png")
        (place / "x.txt").write_text(SECRET)
        (place / "x.safetensors").write_bytes(b"not an adapter: " + SECRET.encode())
    for folder in ("input", "models/loras"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    links = {"input/link_up": base.parent, "input/link_out": outside / "nothing", "models/loras/link_out.safetensors": outside / "nothing"}
    for name, target in links.items():  # none upwards among the LoRAs: the host's own list would never end
        if not os.path.lexists(base / name):
            os.symlink(target, base / name)
    return outside


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder, its size and the time of its last change."""
    return {str(file): (file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(folder.rglob("*")) if file.is_file()}


def outcome(client: Client, graph: Graph) -> tuple[str, str]:
    """("refused" by the host, "error", "ours" or "success"; what was said)."""
    body = json.dumps({"prompt": graph, "client_id": client.name})  # with NaN, which Python's own reader takes
    answer = requests.post(client.address + "/prompt", body, headers={"Content-Type": "application/json"}, timeout=60)
    if answer.status_code == 400:
        return "refused", answer.text
    if answer.status_code != 200:
        return "error", f"the host answered {answer.status_code}"
    run = answer.json()["prompt_id"]
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        entry = client.request(f"/history/{run}").get(run)
        if entry:
            for kind, data in entry.get("status", {}).get("messages", []):
                if kind == "execution_error":
                    ours = str(data.get("exception_type", "")).endswith("B4MError")
                    return "ours" if ours else "error", f"{data.get('exception_type')}: {data.get('exception_message')}"
            return "success", str(entry.get("outputs"))
        time.sleep(0.02)
    return "error", "it never ended"


def try_names(client: Client, base: Path, tried: Sequence[str] | None = None) -> dict[str, Came]:
    """All names in all inputs of a running server whose folders are below ``base``."""
    outside = lay_out(base)
    example = _example(client)
    before = tree(outside)
    found: dict[str, Came] = {}
    for name in names(outside) if tried is None else tried:
        for place, graph, _ in graphs(name):
            for node in graph.values():
                if node["inputs"].get("filename") == EXAMPLE:
                    node["inputs"]["filename"] = example
            came = found.setdefault(place, Came())
            came.tries += 1
            kind, said = outcome(client, graph)
            saved = kind == "success" and "Save" in place  # a name that is odd and plain, such as ~, is a file of that name
            if kind == "error" or kind == "success" and not saved or SECRET in said or tree(outside) != before:
                came.lost.append(f"{name[:60]!r} in {place}: {kind}, {said[:200]}")
    return found


def widgets(client: Client) -> Iterator[tuple[str, str, Any]]:
    """(node, widget, what the host says of it) of every widget of every node of the pack."""
    for node, told in client.node_types().items():
        if node.startswith("B4M"):
            for kind in ("required", "optional"):
                for name, spec in told["input"].get(kind, {}).items():
                    is_widget = isinstance(spec[0], list) or spec[0] in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
                    if is_widget and not (len(spec) > 1 and spec[1].get("forceInput")):
                        yield node, name, spec


def plain_graph(client: Client, node: str) -> Graph:
    """A graph of one node with what it needs, all widgets at their defaults; a training stops at its last common widget."""
    graph: Graph = {
        "m": {"class_type": "B4MMiniModel", "inputs": {}},
        "p": {"class_type": "B4MPictures", "inputs": {"folder": "(demo content)", **WORDS}},
        "l": {"class_type": "B4MLoadAdapter", "inputs": {"filename": _example(client)}},
    }
    wires = {"MODEL": ["m", 0], "CLIP": ["m", 1], "VAE": ["m", 2], "B4M_PICTURES": ["p", 0], "B4M_ADAPTER": ["l", 0]}
    told = client.node_types()[node]
    needed = told["input"].get("required", {}).items()
    inputs: dict[str, Any] = {name: wires[spec[0]] for name, spec in needed if isinstance(spec[0], str) and spec[0] in wires}
    for each, name, spec in widgets(client):
        if each == node:
            options = spec[0] if isinstance(spec[0], list) else spec[1].get("options", [""]) if len(spec) > 1 else [""]
            inputs[name] = spec[1]["default"] if len(spec) > 1 and "default" in spec[1] else options[0]
    if node == "B4MLoadAdapter":
        inputs["filename"] = _example(client)
    graph["n"] = {"class_type": node, "inputs": inputs}
    if not told.get("output_node"):
        graph["o"] = {"class_type": "PreviewAny", "inputs": {"source": ["n", 0]}}
    return graph


def _example(client: Client) -> str:
    return next(each for each in _options(client, "B4MLoadAdapter", "filename") if each.startswith(EXAMPLE))


VALUES: list[Any] = [
    None, True, -1, 2**40, -(2**70), 1.5, float("nan"), float("inf"), "", "no such choice", "nan", "\ud83d", "a\0b", "x" * 300, {},
    {"__value__": [1, 2]}, {"__value__": ["a"]}, {"a": 1},
]  # fmt: skip


def try_values(client: Client, values: Sequence[Any] = VALUES) -> Came:
    """Every value in every widget: refused by the host, our sentence, or taken for what it is; never a raw error.

    Nothing is trained or painted: one more widget has a value that no host refuses and no node takes.
    """
    stopped = {"file_dtype": "none", "prompts": "a\0b", "prompt": "a\0b", "kind": "none"}
    came = Came()
    for node, name, _ in list(widgets(client)):
        graph = plain_graph(client, node)
        graph["n"]["inputs"] |= {each: value for each, value in stopped.items() if each in graph["n"]["inputs"] and each != name}
        for value in values:
            if name in ("prompts", "prompt") and str(value).isprintable():
                continue  # a text is a prompt, and would be painted
            graph["n"]["inputs"][name] = value
            kind, said = outcome(client, graph)
            came.tries += 1
            if kind == "error":
                came.lost.append(f"{node}.{name} = {str(value)[:40]!r}: {said[:200]}")
    return came


def _options(client: Client, node: str, name: str) -> list[str]:
    """What a list of a node offers, in the form of any version."""
    kind, *more = client.node_types()[node]["input"]["required"][name]
    options: list[str] = kind if isinstance(kind, list) else more[0]["options"]
    return options


def a_server(folder: Path, python: Path, base: Path) -> Any:
    """A server of the ComfyUI in ``folder``, as a context."""
    host = Host(folder, python, version_of(folder), ours=False)
    return running(host, port=choose(None), base=base, log_name="escapes.log", options=["--disable-api-nodes"])


def rows(quick: bool) -> list[Row]:
    """The table's line, for the ComfyUI that B4M_COMFYUI names."""
    what = "names that lead out, in every input that is a name, through /prompt"
    folder = os.environ.get("B4M_COMFYUI")
    if not folder:
        return [Row(what, 0, 0, "not run: say where a ComfyUI is, --comfyui PATH")]
    with tempfile.TemporaryDirectory(prefix="b4m-escapes-") as place:
        base = Path(place) / "base"
        with a_server(Path(folder), Path(sys.executable), base) as server:
            found = try_names(server.client, base, names(base.parent / "private")[::6] if quick else None)
            values = try_values(server.client, VALUES[::4] if quick else VALUES)
    lost = [each for came in found.values() for each in came.lost]
    tries = sum(came.tries for came in found.values())
    where = f"of ComfyUI {version_of(Path(folder))}"
    return [
        Row(f"{what} {where}", tries, len(lost), "; ".join(lost[:2])),
        Row(f"wrong values in every widget, through /prompt {where}", values.tries, len(values.lost), "; ".join(values.lost[:2])),
    ]
