"""The pack inside a real ComfyUI: it is imported, its nodes are there, the shipped graphs run."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest
import shipped

from launcher import demo, graphs
from launcher.client import NodeError
from launcher.server import Server


def test_the_newest_host_imports_the_pack_without_a_failure(newest_host: Server) -> None:
    assert newest_host.why_pack_failed() == ""
    assert newest_host.import_failures() == []


def test_every_node_of_the_pack_appears_in_the_newest_host(newest_host: Server) -> None:
    assert shipped.node_ids_in_source() <= set(newest_host.client.node_types())


def test_a_graph_of_the_hosts_own_nodes_saves_its_picture(newest_host: Server) -> None:
    (image,) = newest_host.client.run(shipped.blue_picture())["2"]["images"]
    assert (newest_host.output_folder / image["subfolder"] / image["filename"]).stat().st_size > 0


def test_a_graph_that_the_host_refuses_names_the_node_and_the_reason(newest_host: Server) -> None:
    graph = shipped.blue_picture()
    graph["1"]["inputs"]["width"] = -5
    with pytest.raises(NodeError, match="EmptyImage: Value -5 smaller than min"):
        newest_host.client.run(graph)


@pytest.mark.parametrize("folder", ["", "api/"])
@pytest.mark.parametrize("name", ["b4m_content_in_style.json", "b4m_mix_and_match.json", "b4m_mix_examples.json"])
def test_the_shipped_workflow_is_what_its_builder_makes_of_this_host(newest_host: Server, folder: str, name: str) -> None:
    built = graphs.build(newest_host.client.node_types())
    assert (graphs.WORKFLOWS / folder / name).read_text(encoding="utf-8") == built[folder + name]


@pytest.mark.parametrize("file", [*(f"{name}.json" for name in graphs.GRAPHS), "b4m_content_in_style.jpg", "b4m_mix_examples.jpg"])
def test_the_template_browser_finds_what_it_lists(newest_host: Server, file: str) -> None:
    """The host takes the first folder that there is of several names, examples among them: none but workflows may be in the pack."""
    with urllib.request.urlopen(f"{newest_host.address}/api/workflow_templates/b4m/{file}") as answer:
        assert answer.read() == (graphs.WORKFLOWS / file).read_bytes()


@pytest.mark.parametrize("path", shipped.SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_graph_runs_to_its_pictures(newest_host: Server, path: Path) -> None:
    graph = shipped.shortened(shipped.load(path))
    if not shipped.runs_here(graph):
        pytest.skip("needs an SDXL checkpoint")
    outputs = newest_host.client.run(graph, seconds=900)
    savers = [name for name, node in graph.items() if node["class_type"] == "SaveImage"]
    assert savers
    for name in savers:
        for image in outputs[name]["images"]:
            assert (newest_host.output_folder / image["subfolder"] / image["filename"]).stat().st_size > 1000


def test_the_oldest_host_imports_the_pack_with_every_node(oldest_host: Server) -> None:
    assert oldest_host.why_pack_failed() == ""
    assert shipped.node_ids_in_source() <= set(oldest_host.client.node_types())


def test_the_oldest_host_runs_a_content_training_to_its_end(oldest_host: Server) -> None:
    graph = shipped.shortened(shipped.load(demo.WORKFLOW))
    training = shipped.up_to(graph, shipped.first_of(graph, "B4MTrainContent"))
    oldest_host.client.run(training, seconds=600)
