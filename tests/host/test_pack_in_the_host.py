"""The pack inside a real ComfyUI: it is imported, its nodes are there, the shipped graphs run."""

from __future__ import annotations

import json
import re
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import shipped

from launcher import demo, graphs, locales
from launcher.client import NodeError
from launcher.errors import LauncherError
from launcher.server import Server

OF_ANY_PACK = re.compile(r"Import times for custom nodes:|# seconds: #")
"""What a ComfyUI says of every pack, numbers and paths left out."""


def lines_of_start(server: Server) -> Counter[str]:
    """What a server says until it listens, less what differs from start to start: numbers, paths, colours."""
    text = server.log.read_text(encoding="utf-8", errors="replace").split("To see the GUI")[0]
    words = re.sub(r"\x1b\[\d*m|\[INFO\]", "", text)
    lines = (re.sub(r"(/[\w.@-]+)+/?|[0-9a-f]{8,}|\d+(\.\d+)?", "#", line).strip() for line in words.splitlines())
    return Counter(line for line in lines if line)


def test_comfyui_imports_the_pack_and_says_no_word_more_than_without_it(comfyui: Server, comfyui_without_the_pack: Server) -> None:
    assert comfyui.why_pack_failed() == ""
    assert comfyui.import_failures() == []
    more = lines_of_start(comfyui) - lines_of_start(comfyui_without_the_pack)
    assert [line for line in more if not OF_ANY_PACK.fullmatch(line)] == []


def test_comfyui_has_every_node_of_the_pack_and_no_other(comfyui: Server) -> None:
    assert sorted(name for name in comfyui.client.node_types() if name.startswith("B4M")) == sorted(shipped.NODES)


@pytest.mark.parametrize("name", shipped.NODES)
def test_a_node_its_inputs_and_its_outputs_say_what_they_are(comfyui: Server, name: str) -> None:
    node = comfyui.client.node_types()[name]
    assert node["display_name"].startswith("B4M") and node["description"]
    inputs = {key: spec for kind in ("required", "optional") for key, spec in node["input"].get(kind, {}).items()}
    assert [key for key, spec in inputs.items() if not (len(spec) > 1 and spec[1].get("tooltip"))] == []
    assert len(node["output_tooltips"] or []) == len(node["output"])
    assert all(node["output_tooltips"] or [])


@pytest.mark.parametrize("language", locales.LANGUAGES)
def test_every_node_input_and_output_has_words_in_each_language(comfyui: Server, language: str) -> None:
    info, source = comfyui.client.node_types(), locales.words(language)
    assert locales.amiss(info, source) == []
    for file, text in locales.files(info).items():
        assert file.read_text(encoding="utf-8") == text, "build it: python -m launcher.locales ADDRESS"
    served = comfyui.client.request("/i18n")[language]["nodeDefs"]
    assert served["B4MTrain"]["display_name"] == source["nodes"]["B4MTrain"]


def test_a_word_that_is_lacking_or_stands_for_a_text_that_has_changed_is_named() -> None:
    inputs = {"required": {"steps": ["INT", {"tooltip": "New."}]}, "optional": {"unheard": ["INT", {"tooltip": "How many."}]}}
    info = {"B4MNew": {"description": "New.", "input": inputs, "output_name": ["image", "odd"], "output_tooltips": ["New.", "New."]}}
    source = {"nodes": {"B4MNew": "x"}, "inputs": {"steps": "x"}, "outputs": {"image": "x"}, "texts": {"New.": "x", "Old.": "x"}}
    lacking = ["no word for B4MNew.unheard", "no word for B4MNew.odd", "no word for How many."]
    assert locales.amiss(info, source) == [*lacking, "nothing says Old."]
    with pytest.raises(LauncherError, match=r"no word for B4MNew.unheard.*nothing says Old."):
        locales.built(info, source)


@pytest.mark.parametrize("name", shipped.NODES)
def test_the_help_of_a_node_is_served_where_the_page_looks_for_it(comfyui: Server, name: str) -> None:
    with urllib.request.urlopen(f"{comfyui.address}/extensions/b4m/docs/{name}/en.md") as answer:
        assert answer.read() == (shipped.ROOT / "web" / "docs" / name / "en.md").read_bytes()


def test_a_graph_of_the_hosts_own_nodes_saves_its_picture(comfyui: Server) -> None:
    (image,) = comfyui.client.run(shipped.blue_picture())["2"]["images"]
    assert (comfyui.output_folder / image["subfolder"] / image["filename"]).stat().st_size > 0


def test_a_graph_that_the_host_refuses_names_the_node_and_the_reason(comfyui: Server) -> None:
    graph = shipped.blue_picture()
    graph["1"]["inputs"]["width"] = -5
    with pytest.raises(NodeError, match="EmptyImage: Value -5 smaller than min"):
        comfyui.client.run(graph)


def without_outputs_of_the_hosts_own(workflow: str) -> dict[str, Any]:
    """A workflow for the page less the outputs of the host's own nodes: a saving node has had one only since 2026."""
    page: dict[str, Any] = json.loads(workflow)
    for node in page.get("nodes", []):
        if not node["type"].startswith("B4M") and not any(output.get("links") for output in node["outputs"]):
            node["outputs"] = []
    return page


@pytest.mark.parametrize("folder", ["", "api/"])
@pytest.mark.parametrize("name", [f"{name}.json" for name in graphs.GRAPHS if "sdxl" not in name])
def test_the_shipped_workflow_is_what_its_builder_makes_of_this_host(comfyui: Server, folder: str, name: str) -> None:
    shipped_file = (graphs.WORKFLOWS / folder / name).read_text(encoding="utf-8")
    built = graphs.build(comfyui.client.node_types())[folder + name]
    assert without_outputs_of_the_hosts_own(built) == without_outputs_of_the_hosts_own(shipped_file)


@pytest.mark.parametrize("file", [f"{name}.{kind}" for name in graphs.GRAPHS for kind in ("json", "jpg")])
def test_the_template_browser_finds_what_it_lists(comfyui: Server, file: str) -> None:
    """The host takes the first folder that there is of several names, examples among them: none but workflows may be in the pack."""
    with urllib.request.urlopen(f"{comfyui.address}/api/workflow_templates/b4m/{file}") as answer:
        assert answer.read() == (graphs.WORKFLOWS / file).read_bytes()


def test_the_template_browser_lists_every_workflow_of_the_pack(comfyui: Server) -> None:
    assert sorted(comfyui.client.request("/workflow_templates")["b4m"]) == sorted(path.stem for path in shipped.PAGES)


@pytest.mark.parametrize("path", shipped.SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_graph_runs_to_its_pictures(comfyui: Server, path: Path) -> None:
    graph = shipped.shortened(shipped.load(path))
    if not shipped.runs_here(graph):
        pytest.skip("needs an SDXL checkpoint")
    outputs = comfyui.client.run(graph, seconds=900)
    savers = [name for name, node in graph.items() if node["class_type"] == "SaveImage"]
    assert savers
    for name in savers:
        for image in outputs[name]["images"]:
            assert (comfyui.output_folder / image["subfolder"] / image["filename"]).stat().st_size > 1000


def test_the_oldest_comfyui_imports_the_pack_with_every_node(oldest_comfyui: Server) -> None:
    assert oldest_comfyui.why_pack_failed() == ""
    assert set(shipped.NODES) <= set(oldest_comfyui.client.node_types())


def test_the_oldest_comfyui_runs_a_content_training_to_its_end(oldest_comfyui: Server) -> None:
    graph = shipped.shortened(shipped.load(demo.WORKFLOW))
    training = shipped.up_to(graph, shipped.first_of(graph, "B4MTrainContent"))
    oldest_comfyui.client.run(training, seconds=600)
