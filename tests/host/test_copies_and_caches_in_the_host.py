"""A real server with a second copy of the pack in it, and with a cache that remembers more than the last graph, as newer hosts have."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_trainings_in_the_host import PICTURES, fails_with, node, saved, state, training

from launcher.client import Graph, NodeError
from launcher.server import Server
from tests.conftest import host_in_question, real_comfyui

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def crowded_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The host in question with two copies of the pack and links to another disk, remembering the results of many graphs."""
    base = tmp_path_factory.mktemp("crowded_host")
    copy = base / "custom_nodes" / "B4M-ComfyUI-main"
    copy.mkdir(parents=True)
    shutil.copy(ROOT / "__init__.py", copy)
    for folder in ("b4m_core", "nodes", "web", "adapters", "mini", "workflows"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(PICTURES / "demo_content", base / "disk" / "photos")
    shutil.copytree(PICTURES / "demo_content", base / "input" / "set")
    (base / "input" / "linked").symlink_to(base / "disk")
    (base / "models").mkdir()
    (base / "disk" / "loras").mkdir()
    (base / "models" / "loras").symlink_to(base / "disk" / "loras")
    yield from real_comfyui(host_in_question(), base, "--cache-lru", "60")


def from_wires(name: str, **inputs: Any) -> Graph:
    """A training on pictures from the host's own dataset node."""
    graph = training(name, folder="(pictures from the graph)", steps=2)
    graph["load"] = node("LoadImageTextDataSetFromFolder", folder="set")
    graph["pictures"]["inputs"] |= {"images": ["load", 0], **inputs}
    return graph


def test_of_two_copies_one_is_used_and_the_other_named(crowded_host: Server) -> None:
    places = {kind["python_module"] for name, kind in crowded_host.client.node_types().items() if name.startswith("B4M")}
    scripts = [path for path in crowded_host.client.request("/extensions") if path.endswith("/b4m.js")]
    lines = [line for line in crowded_host.log.read_text(encoding="utf-8").splitlines() if "B4M for ComfyUI is installed twice" in line]
    assert len(places) == len(scripts) == len(lines) == 1
    assert "delete the latter" in lines[0]


def test_a_list_of_pictures_is_trained_once_as_one_set_with_captions_by_wire(crowded_host: Server) -> None:
    outputs = crowded_host.client.run(from_wires("listed", captions=["load", 1]))
    assert outputs["pictures"]["text"][0].startswith("4 pictures, 4 captions, the trigger is in 4")
    assert len(outputs["train"]["b4m_run"]) == len(outputs["save"]["text"]) == 1


def test_masks_that_do_not_match_the_pictures_end_in_a_sentence(crowded_host: Server) -> None:
    graph = from_wires("masked", masks=["mask", 0])
    graph["mask"] = node("SolidMask", value=1.0, width=64, height=192)
    fails_with(crowded_host, graph, "The mask of image 1 is 64 x 192 and the picture 192 x 192")


def test_pictures_and_loras_behind_links_are_listed_and_loaded(crowded_host: Server) -> None:
    outputs = crowded_host.client.run(training("linked", folder="linked/photos", steps=2))
    assert "4 pictures" in str(outputs["pictures"])
    assert (crowded_host.base / "disk" / "loras" / "linked.safetensors").is_file()
    graph = {"load": node("B4MLoadAdapter", filename="linked.safetensors"), "facts": node("B4MAdapterFacts", adapter=["load", 0])}
    assert "content adapter, rank 8" in str(crowded_host.client.run(graph)["facts"])


def test_a_saved_file_that_was_deleted_is_saved_again_and_nothing_else_runs(crowded_host: Server) -> None:
    graph = training("deleted", steps=2)
    crowded_host.client.run(graph)
    first, run = saved(crowded_host, "deleted").read_bytes(), state(crowded_host, graph)["run"]
    saved(crowded_host, "deleted").unlink()
    crowded_host.client.run(graph)
    assert saved(crowded_host, "deleted").read_bytes() == first and state(crowded_host, graph)["run"] == run


def test_a_node_shows_what_its_result_came_to_though_the_host_did_not_ask_it_again(crowded_host: Server) -> None:
    one, other = training("shown", steps=36, seed=31), training("shown", steps=4, seed=32)
    crowded_host.client.run(one)
    before = state(crowded_host, one)
    crowded_host.client.run(other)
    assert state(crowded_host, other)["total"] == 4
    outputs = crowded_host.client.run(one)
    assert outputs["train"]["b4m_run"] == [before["run"]]
    assert state(crowded_host, one) == before
    anew = training("shown", steps=36, seed=31, run="retrain")
    cancelled(crowded_host, anew)
    assert state(crowded_host, anew)["state"] == "stopped" and "Run goes on from here" in state(crowded_host, anew)["end"]
    crowded_host.client.run(one)
    assert state(crowded_host, one)["state"] in ("done", "reused") and state(crowded_host, one)["step"] == 36


def cancelled(host: Server, graph: Graph) -> None:
    """Run a graph and press Cancel in the middle of its training."""
    run = host.client.queue(graph)
    deadline = time.monotonic() + 60
    while (now := state(host, graph)).get("state") != "training" or not 2 < now["step"] < now["total"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    host.client.interrupt()
    with pytest.raises(NodeError, match="cancelled"):
        host.client.wait(run, seconds=30)


def test_a_vae_of_another_family_ends_in_a_sentence_and_the_display_says_so(crowded_host: Server) -> None:
    graph = training("other_vae", steps=2)
    graph["vae"] = node("VAELoader", vae_name="pixel_space")
    graph["train"]["inputs"]["vae"] = ["vae", 0]
    fails_with(crowded_host, graph, "The VAE connected here is that of another model: its latents have 3 channels")
    assert state(crowded_host, graph)["state"] == "failed" and "3 channels" in state(crowded_host, graph)["end"]


def test_a_distilled_lora_upstream_is_noted_on_the_node(crowded_host: Server) -> None:
    crowded_host.client.run(training("few_steps_lightning", steps=2))
    graph = training("on_lightning", steps=2)
    lora = {"lora_name": "few_steps_lightning.safetensors", "strength_model": 1.0}
    graph["lora"] = node("LoraLoaderModelOnly", model=["model", 0], **lora)
    graph["train"]["inputs"]["model"] = ["lora", 0]
    crowded_host.client.run(graph)
    assert "distilled SDXL (Lightning), which paints in 2 to 8 steps at cfg 1" in state(crowded_host, graph)["note"]
