"""The nodes in other languages, for the page: locales/<language>/nodeDefs.json, and their help, web/docs/<node>/<language>.md.

    python -m launcher.locales http://127.0.0.1:8188

builds them from launcher/languages/<language>.json: names by node, and by input or output ("Node.input" where one means something else
there), and texts by the English text that they say again, so that none can stay behind when the English one changes. English stands in the
code. What a language lacks, or has for a text that is gone, is named, and nothing is written.
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
Words = dict[str, dict[str, str]]


def words(language: str) -> Words:
    """The source of one language: "nodes", "inputs" and "outputs" by name, "texts" by the English one, "headings" of a help page."""
    found: Words = json.loads((_SOURCES / f"{language}.json").read_text(encoding="utf-8"))
    return found


def wanted(info: Info) -> dict[str, set[str]]:
    """The names and texts of all nodes in English: each must have a word in a language."""
    nodes = _ours(info)
    return {
        "nodes": set(nodes),
        "inputs": {f"{node}.{name}" for node, facts in nodes.items() for name in _inputs(facts)},
        "outputs": {f"{node}.{name}" for node, facts in nodes.items() for name in facts["output_name"]},
        "texts": {text for facts in nodes.values() for text in (facts["description"], *_inputs(facts).values(), *facts["output_tooltips"])},
    }


def amiss(info: Info, source: Words) -> list[str]:
    """What of the nodes has no word in a language, and what stands there for nothing."""
    found = []
    for table, names in wanted(info).items():
        keys = {name: name if table in ("nodes", "texts") else _key(source[table], name) for name in names}
        found += [f"no word for {name}" for name in sorted(names) if keys[name] not in source[table]]
        found += [f"nothing says {key}" for key in sorted(source[table].keys() - set(keys.values()))]
    return found


def _key(table: dict[str, str], name: str) -> str:
    """How the name of a node's input or output is found: as its own, or as that of all nodes."""
    return name if name in table else name.partition(".")[2]


def _ours(info: Info) -> dict[str, Any]:
    return {name: info[name] for name in sorted(info) if name.startswith("B4M")}


def _inputs(facts: Any) -> dict[str, str]:
    """The tooltip of each input."""
    both = {**facts["input"].get("required", {}), **facts["input"].get("optional", {})}
    return {name: options["tooltip"] for name, (_, options) in both.items()}


def built(info: Info, source: Words) -> dict[str, Any]:
    """nodeDefs.json of one language. Raises LauncherError where a word is lacking, or stands for nothing."""
    if faults := amiss(info, source):
        raise LauncherError(f"launcher/languages does not fit the nodes: {'; '.join(faults)}. Write what is lacking, take out the rest.")
    result: dict[str, Any] = {}
    for node, facts in _ours(info).items():

        def face(table: str, name: str, text: str, node: str = node) -> dict[str, str]:
            return {"name": source[table][_key(source[table], f"{node}.{name}")], "tooltip": source["texts"][text]}

        outputs = zip(facts["output_name"], facts["output_tooltips"], strict=True)
        result[node] = {
            "display_name": source["nodes"][node],
            "description": source["texts"][facts["description"]],
            "inputs": {name: face("inputs", name, text) for name, text in _inputs(facts).items()},
            "outputs": {str(number): face("outputs", *each) for number, each in enumerate(outputs)},
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
            found[ROOT / "web" / "docs" / node / f"{language}.md"] = help_page(node, facts, list(source["headings"].values()))
    return found


def main(address: str) -> None:
    for path, text in files(Client(address).node_types()).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main(sys.argv[1])
