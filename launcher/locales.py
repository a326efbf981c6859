"""The nodes in other languages, for the page: locales/<language>/nodeDefs.json, and their help, web/docs/<node>/<language>.md.

    python -m launcher.locales http://127.0.0.1:8188

builds them from launcher/languages/<language>.json, where a word stands once for all nodes that have it, and again as "Node.word" where it
means something else there. English stands in the code. What a language lacks is named, and nothing is written.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from .client import Client
from .errors import LauncherError
from .workflow_format import Info

ROOT = Path(__file__).resolve().parents[1]
LANGUAGES = ("zh", "ja")
_LONGEST = 110  # characters of a line
_SOURCES = Path(__file__).with_name("languages")
Words = dict[str, dict[str, list[str]]]


def words(language: str) -> Words:
    """The source of one language."""
    found: Words = json.loads((_SOURCES / f"{language}.json").read_text(encoding="utf-8"))
    return found


def _of(table: dict[str, list[str]], node: str, name: str) -> dict[str, str]:
    label, tooltip = table.get(f"{node}.{name}") or table[name]
    return {"name": label, "tooltip": tooltip}


def lacking(info: Info, source: Words) -> list[str]:
    """What of the nodes has no word in a language: "Node", "Node.input" or "Node > output"."""
    names = {node: (_inputs(facts), list(facts["output_name"])) for node, facts in _ours(info).items()}
    nodes = [node for node in names if node not in source["nodes"]]
    inputs = [f"{node}.{name}" for node, (each, _) in names.items() for name in each if not _has(source["inputs"], node, name)]
    outputs = [f"{node} > {name}" for node, (_, each) in names.items() for name in each if not _has(source["outputs"], node, name)]
    return [*nodes, *inputs, *outputs]


def _has(table: dict[str, list[str]], node: str, name: str) -> bool:
    return f"{node}.{name}" in table or name in table


def _ours(info: Info) -> dict[str, Any]:
    return {name: info[name] for name in sorted(info) if name.startswith("B4M")}


def _inputs(facts: Any) -> list[str]:
    return [name for part in ("required", "optional") for name in facts["input"].get(part, {})]


def built(info: Info, source: Words) -> dict[str, Any]:
    """nodeDefs.json of one language. Raises LauncherError where a word is lacking."""
    missing = lacking(info, source)
    if missing:
        raise LauncherError(f"There are no words for {', '.join(missing)}: write them into launcher/languages.")
    result: dict[str, Any] = {}
    for node, facts in _ours(info).items():
        title, description = source["nodes"][node]
        result[node] = {
            "display_name": title,
            "description": description,
            "inputs": {name: _of(source["inputs"], node, name) for name in _inputs(facts)},
            "outputs": {str(number): _of(source["outputs"], node, name) for number, name in enumerate(facts["output_name"])},
        }
    return result


def help_page(node: str, facts: dict[str, Any], headings: list[str]) -> str:
    """The help of one node: what it is, how it looks, and a table of what goes in and what comes out."""
    picture = ["", f"![{facts['display_name']}]({node}/node.webp)"] if (ROOT / "web" / "docs" / node / "node.webp").is_file() else []
    lines = [f"# {facts['display_name']}", "", *_wrapped(facts["description"]), *picture]
    for heading, part in zip(headings, ("inputs", "outputs"), strict=True):
        rows = [f"| {each['name']} | {each['tooltip']} |" for each in facts[part].values()]
        lines += ["", f"## {heading}", "", "| | |", "|---|---|", *rows] if rows else []
    return "\n".join(lines) + "\n"


def _wrapped(text: str) -> list[str]:
    """Lines that fit on a page; these languages break anywhere."""
    return [text[start : start + _LONGEST] for start in range(0, len(text), _LONGEST)]


def files(info: Info) -> dict[Path, str]:
    """Every file of every language as text."""
    found: dict[Path, str] = {}
    for language in LANGUAGES:
        source = words(language)
        faces = built(info, source)
        found[ROOT / "locales" / language / "nodeDefs.json"] = json.dumps(faces, ensure_ascii=False, indent=1) + "\n"
        for node, facts in faces.items():
            found[ROOT / "web" / "docs" / node / f"{language}.md"] = help_page(node, facts, source["headings"]["help"])
    return found


def main(address: str) -> None:
    for path, text in files(Client(address).node_types()).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main(sys.argv[1])
