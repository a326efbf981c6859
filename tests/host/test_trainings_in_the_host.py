"""Trainings on a real server: what an artist can see, keep, stop, repeat and get wrong."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from b4m_core import load_adapter
from launcher.client import Graph, NodeError
from launcher.server import Server

PROMPT = "a snq bird on the beach"
PICTURES = Path(__file__).resolve().parents[2] / "workflows" / "pictures"
TRAINING: dict[str, Any] = {
    "steps": 4,
    "learning_rate": 3e-3,
    "resolution": 128,
    "seed": 7,
    "sample_every": 0,
    "sample_prompt": PROMPT,
    "run": "continue or reuse",
    "sample_steps": 6,
    "sample_cfg": 4.0,
    "batch_size": 1,
    "gradient_accumulation_steps": 1,
    "weight_decay": 0.01,
    "flip": False,
    "file_dtype": "float16",
}
APART = {"auxiliary_learning_rate": 3e-4, "rank": 8, "basis_seed": 0, "start": "zero_start"}


def node(kind: str, /, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def pictures(folder: str = "(demo content)", **changes: Any) -> dict[str, Any]:
    words = {"trigger": "snq", "class_word": "bird", "caption": "a photo of a {trigger} {class}", "use_masks": True}
    return node("B4MPictures", folder=folder, **(words | changes))


def base() -> dict[str, list[Any]]:
    return {"model": ["model", 0], "clip": ["model", 1], "vae": ["model", 2]}


def training(name: str, kind: str = "B4MTrainContent", folder: str = "(demo content)", **changes: Any) -> Graph:
    """Mini model -> pictures -> one training -> saved under ``name``."""
    return {
        "model": node("B4MMiniModel"),
        "pictures": pictures(folder),
        "train": node(kind, **base(), pictures=["pictures", 0], **(TRAINING | APART | changes)),
        "save": node("B4MSaveAdapter", adapter=["train", 0], filename=name, replace=True),
    }


def state(host: Server, graph: Graph, name: str = "train") -> dict[str, Any]:
    """What a page with that graph shows on a node now; empty while there is nothing."""
    shown: dict[str, Any] = host.client.request("/b4m/shown", {"prompt": graph})["nodes"].get(name, {})
    return shown


def saved(host: Server, name: str) -> Path:
    return host.base / "models" / "loras" / f"{name}.safetensors"


def pixels(host: Server, outputs: dict[str, Any], name: str) -> np.ndarray:
    (image,) = outputs[name]["images"]
    return np.asarray(Image.open(host.output_folder / image["subfolder"] / image["filename"]))


def fails_with(host: Server, graph: Graph, words: str) -> None:
    """The graph ends in one sentence with these words, and the server lives on."""
    with pytest.raises(NodeError, match=words) as caught:
        host.client.run(graph)
    assert "Traceback" not in str(caught.value)
    assert host.client.answers()


@pytest.fixture
def input_folder(comfyui: Server) -> Callable[[str], Path]:
    """Makes a folder of pictures below the host's input folder."""

    def make(name: str) -> Path:
        folder = comfyui.base / "input" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    return make


def test_the_last_sample_equals_what_the_saved_file_paints_later(comfyui: Server) -> None:
    graph = training("parity", sample_every=2)
    graph["sample"] = node("SaveImage", images=["train", 1], filename_prefix="parity/sample")
    sample = pixels(comfyui, comfyui.client.run(graph), "sample")
    later = {
        "model": node("B4MMiniModel"),
        "lora": node("LoraLoaderModelOnly", model=["model", 0], lora_name="parity.safetensors", strength_model=1.0),
        "prompt": node("CLIPTextEncode", clip=["model", 1], text=PROMPT),
        "negative": node("CLIPTextEncode", clip=["model", 1], text=""),
        "canvas": node("EmptyLatentImage", width=sample.shape[1], height=sample.shape[0], batch_size=1),
        "sampler": node(
            "KSampler",
            model=["lora", 0],
            positive=["prompt", 0],
            negative=["negative", 0],
            latent_image=["canvas", 0],
            seed=7,
            steps=6,
            cfg=4.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
        ),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["model", 2]),
        "picture": node("SaveImage", images=["decode", 0], filename_prefix="parity/later"),
    }
    assert np.array_equal(sample, pixels(comfyui, comfyui.client.run(later), "picture"))


def test_a_saved_adapter_is_in_the_lora_list_at_once(comfyui: Server) -> None:
    comfyui.client.run(training("seen_at_once"))
    nodes = comfyui.client.node_types()
    assert "seen_at_once.safetensors" in str(nodes["LoraLoader"]["input"]["required"]["lora_name"])
    assert "seen_at_once.safetensors" in str(nodes["B4MLoadAdapter"]["input"]["required"]["filename"])


def test_an_identical_training_is_reused_and_not_trained_again(comfyui: Server) -> None:
    comfyui.client.run(training("once", seed=21))
    assert state(comfyui, training("once", seed=21))["state"] == "done"
    first = load_adapter(saved(comfyui, "once"))
    comfyui.client.run(training("once", seed=21, sample_every=3))
    assert state(comfyui, training("once", seed=21, sample_every=3))["state"] == "reused"
    again = load_adapter(saved(comfyui, "once"))
    assert again.digest() == first.digest() and again.facts == first.facts and again.thumbnail and not first.thumbnail


def test_a_cancelled_training_goes_on_to_the_same_bytes(comfyui: Server) -> None:
    steps = 36
    comfyui.client.run(training("whole", steps=steps, seed=31))
    whole = saved(comfyui, "whole").read_bytes()
    again = training("whole", steps=steps, seed=31, run="retrain")
    run = comfyui.client.queue(again)
    deadline = time.monotonic() + 60
    while not 2 < state(comfyui, again).get("step", 0) < steps or state(comfyui, again)["state"] != "training":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    comfyui.client.interrupt()
    with pytest.raises(NodeError, match="cancelled"):
        comfyui.client.wait(run, seconds=30)
    assert state(comfyui, again)["state"] == "stopped"
    stopped_at = state(comfyui, again)["step"]
    assert 0 < stopped_at < steps
    comfyui.client.run(training("whole", steps=steps, seed=31))
    assert state(comfyui, training("whole", steps=steps, seed=31))["state"] == "done"
    assert saved(comfyui, "whole").read_bytes() == whole


def test_more_steps_go_on_fewer_are_there_and_what_was_stopped_can_be_taken(comfyui: Server) -> None:
    stopped = training("stopped", steps=400, seed=33)
    run = comfyui.client.queue(stopped)
    deadline = time.monotonic() + 60
    while (now := state(comfyui, stopped)).get("step", 0) < 3 or now["state"] != "training":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    comfyui.client.interrupt()
    with pytest.raises(NodeError, match="cancelled"):
        comfyui.client.wait(run, seconds=30)
    at = state(comfyui, stopped)["step"]
    graph = training("taken", steps=400, seed=33, run="use what is trained")
    comfyui.client.run(graph)
    assert state(comfyui, graph)["step"] == at and "nothing was trained" in state(comfyui, graph)["end"]
    graph = training("more", steps=at + 2, seed=33)
    comfyui.client.run(graph)
    assert state(comfyui, graph)["state"] == "done"
    graph = training("fewer", steps=at, seed=33)
    comfyui.client.run(graph)
    assert state(comfyui, graph)["state"] == "reused"
    assert load_adapter(saved(comfyui, "fewer")).digest() == load_adapter(saved(comfyui, "taken")).digest()


def test_the_curve_and_the_sample_reach_the_page(comfyui: Server) -> None:
    comfyui.client.run(training("curve", seed=41, sample_every=2))
    shown = state(comfyui, training("curve", seed=41, sample_every=2))
    assert shown["step"] == shown["total"] == 4
    assert len(shown["curve"]["raw"]) == 4
    assert shown["sample"]["step"] == 4
    assert shown["sample"]["url"].startswith("data:image/jpeg;base64,")


def test_content_and_style_go_together_with_two_sliders(comfyui: Server) -> None:
    graph = training("together", steps=2, folder="(demo content)")
    graph["style_pictures"] = pictures("(demo style)", trigger="w@z")
    graph["train_style"] = node("B4MTrainStyle", **base(), pictures=["style_pictures", 0], **(TRAINING | APART | {"steps": 2}))
    painted = {"folder": "(painted by the model)", "sets": 1, "pictures": 1, "resolution": 128}
    graph["styles"] = node("B4MAuxiliaryPictures", **base(), kind="other styles (for a content)", **painted)
    graph["both"] = node(
        "B4MTrainTogether",
        **base(),
        content=["train", 0],
        style=["train_style", 0],
        content_pictures=["pictures", 0],
        style_pictures=["style_pictures", 0],
        content_auxiliary=["styles", 0],
        **(TRAINING | {"steps": 2, "preconditioner_damping": 1e-4}),
    )
    graph["save"]["inputs"]["adapter"] = ["both", 0]
    graph["apply"] = node("B4MApplyAdapter", model=["model", 0], adapter=["save", 0], content=0.7, style=1.3)
    graph["facts"] = node("B4MAdapterFacts", adapter=["save", 0])
    graph["show"] = node("PreviewAny", source=["facts", 0])
    outputs = comfyui.client.run(graph)
    assert "together adapter, rank 8" in str(outputs["facts"])


def test_a_damaged_picture_among_good_ones_is_named_and_left_out(comfyui: Server, input_folder: Callable[[str], Path]) -> None:
    folder = input_folder("one_is_bad")
    shutil.copytree(PICTURES / "demo_content", folder, dirs_exist_ok=True)
    (folder / "bad.png").write_bytes(b"not a picture")
    outputs = comfyui.client.run(training("one_bad", folder="one_is_bad", seed=51))
    assert "bad.png was left out" in str(outputs["pictures"])
    assert "bad.png was left out" in state(comfyui, training("one_bad", folder="one_is_bad", seed=51))["note"]


def test_a_folder_without_pictures_ends_in_a_sentence(comfyui: Server, input_folder: Callable[[str], Path]) -> None:
    (input_folder("only_bad") / "bad.png").write_bytes(b"")
    fails_with(comfyui, training("none", folder="only_bad"), "no pictures to train on.*bad.png was left out")


def test_no_pictures_from_the_graph_ends_in_a_sentence(comfyui: Server) -> None:
    fails_with(comfyui, training("none", folder="(pictures from the graph)"), "choose a folder, or connect images")


@pytest.mark.parametrize("name", ["..", "../..", "/etc", "C:\\Windows", "one_is_bad/../.."])
def test_a_folder_outside_the_input_folder_is_refused(comfyui: Server, name: str) -> None:
    fails_with(comfyui, training("none", folder=name), "(?i)not in list|not a name inside")


def test_a_base_model_that_is_spoilt_before_the_node_is_named_and_no_rate_is_blamed(comfyui: Server) -> None:
    key = "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q"
    broken = {f"{key}.lora_up.weight": torch.full((128, 1), torch.nan), f"{key}.lora_down.weight": torch.ones(1, 128)}
    save_file(broken, saved(comfyui, "broken"))
    graph = training("nan", seed=61)
    graph["broken"] = node("LoraLoaderModelOnly", model=["model", 0], lora_name="broken.safetensors", strength_model=1.0)
    graph["train"]["inputs"]["model"] = ["broken", 0]
    words = "not a number at step 1 of 4.*base model itself holds .* in .*attn1.to_q.weight: load another checkpoint, or take away the LoRA"
    fails_with(comfyui, graph, words)
    assert state(comfyui, graph)["state"] == "failed"
    assert not saved(comfyui, "nan").exists()


def test_adapters_of_different_ranks_merge_to_their_exact_sum_and_it_is_said(comfyui: Server) -> None:
    graph = training("ranks", seed=71)
    graph["other"] = node("B4MTrainStyle", **base(), pictures=["pictures", 0], **(TRAINING | APART | {"rank": 4, "split": "halves"}))
    graph["train"]["inputs"]["split"] = "halves"
    graph["merge"] = node("B4MMergeAdapters", content=["train", 0], style=["other", 0])
    graph["facts"] = node("B4MAdapterFacts", adapter=["merge", 0])
    for _ in range(2):  # the second time the host answers from its cache
        outputs = comfyui.client.run(graph)
        assert "merged adapter, rank 8" in str(outputs["facts"]) and "added up, exactly" in str(outputs["merge"])


def test_a_damaged_adapter_file_ends_in_a_sentence(comfyui: Server) -> None:
    comfyui.client.run(training("to_damage", seed=81))
    path = saved(comfyui, "to_damage")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    graph = {"load": node("B4MLoadAdapter", filename="to_damage.safetensors"), "facts": node("B4MAdapterFacts", adapter=["load", 0])}
    try:
        fails_with(comfyui, graph, "damaged")
    finally:
        path.unlink()


def test_a_second_file_of_one_name_gets_a_number(comfyui: Server) -> None:
    graph = training("kept", seed=91)
    graph["save"]["inputs"]["replace"] = False
    comfyui.client.run(graph)
    graph["train"]["inputs"]["seed"] = 92
    outputs = comfyui.client.run(graph)
    assert "kept_2.safetensors" in str(outputs["save"])
    assert saved(comfyui, "kept").exists()


def test_a_file_name_with_a_path_is_refused(comfyui: Server) -> None:
    fails_with(comfyui, training("../outside", seed=91), "cannot be a file name")
