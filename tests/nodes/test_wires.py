"""MODEL, CLIP and VAE that cannot work are named before anything runs; a distilled model gets a note."""

from __future__ import annotations

import importlib
from types import ModuleType, SimpleNamespace
from typing import Any

import comfy.sd
import comfy.taesd.taesd
import pytest
import small_sdxl
import torch
from test_faces import adapter_for, pictures

Trio = tuple[Any, Any, Any]


class Encoders:
    """A CLIP that gives vectors of some widths and counts how often it is asked."""

    def __init__(self, width: int, pooled: int | None) -> None:
        self.cond_stage_model, self.asked = torch.nn.Module(), 0
        self._widths = width, pooled

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens_scheduled(self, tokens: str) -> list[Any]:
        self.asked += 1
        width, pooled = self._widths
        return [[torch.zeros(1, 77, width), {"pooled_output": None if pooled is None else torch.zeros(1, pooled)}]]


def vae(channels: int = 4, **more: Any) -> Any:
    sizes = {"latent_channels": channels, "latent_dim": 2, "downscale_ratio": 8}
    return SimpleNamespace(**{**sizes, "first_stage_model": torch.nn.Module(), "decode": print, **more})


@pytest.mark.parametrize(
    ("width", "pooled", "family"),
    [
        (768, 768, "Stable Diffusion 1.5"),
        (1024, 1024, "Stable Diffusion 2"),
        (1280, 1280, "the SDXL refiner"),
        (4096, 2048, "Stable Diffusion 3 or Flux"),
        (4096, 768, "Stable Diffusion 3 or Flux"),
        (2560, None, "another model"),
        (small_sdxl.TEXT_WIDTH, None, "another model"),
        (small_sdxl.TEXT_WIDTH, small_sdxl.POOLED + 1, "another model"),
    ],
)
def test_text_encoders_of_another_family_are_named(
    host: ModuleType, error: type[Exception], width: int, pooled: int | None, family: str
) -> None:
    with pytest.raises(error, match=f"The CLIP connected here is that of {family}: it gives {width} numbers a token"):
        host.HostBaseModel(small_sdxl.small_model(), Encoders(width, pooled), vae())


def test_the_right_text_encoders_are_asked_once_for_all_nodes(host: ModuleType) -> None:
    model, clip = small_sdxl.small_model(), Encoders(small_sdxl.TEXT_WIDTH, small_sdxl.POOLED)
    for _ in range(3):
        host.HostBaseModel(model, clip, vae())
    assert clip.asked == 1


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (vae(16), "that of Stable Diffusion 3 or Flux: its latents have 16 channels, and this model takes pictures in 4"),
        (vae(16, latent_dim=3, downscale_ratio=(4, 8, 8)), "a video or sound model"),
        (vae(64, latent_dim=1, downscale_ratio=2048), "a video or sound model"),
        (vae(3, downscale_ratio=1), "another model"),
        (vae(4, downscale_ratio=4), "another model"),
        (vae(first_stage_model=None), "The vae input got nothing.*has no VAE"),
        (None, "The vae input got nothing.*has no VAE"),
        ("vae", r"The vae input got something else \(str\)"),
    ],
)
def test_a_vae_that_cannot_work_is_named(host: ModuleType, error: type[Exception], wrong: Any, sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        host.HostBaseModel(small_sdxl.small_model(), Encoders(small_sdxl.TEXT_WIDTH, small_sdxl.POOLED), wrong)


def test_the_hosts_own_vae_classes_are_told_apart(host: ModuleType, error: type[Exception], mini: Trio) -> None:
    """A TAESD of 16 channels, one of Stable Diffusion 1.5's scale, and what a file without a VAE gives."""
    wide = comfy.taesd.taesd.TAESD(latent_channels=16).state_dict()
    weights = mini[2].first_stage_model.state_dict()
    with pytest.raises(error, match="16 channels"):
        host.require_vae(mini[0], comfy.sd.VAE(sd=wide, dtype=torch.float32))
    with pytest.raises(error, match="TAESD of another model .scale 0.18215.*choose taesdxl"):
        host.require_vae(mini[0], comfy.sd.VAE(sd={**weights, "vae_scale": torch.tensor(0.18215)}, dtype=torch.float32))
    with pytest.raises(error, match="The vae input got nothing"):
        host.require_vae(mini[0], comfy.sd.VAE(sd={}))
    host.require_vae(*mini[::2])


def test_a_missing_or_wrong_model_or_clip_is_named(host: ModuleType, error: type[Exception], mini: Trio) -> None:
    for model in (None, "sdxl.safetensors", torch.zeros(1)):
        with pytest.raises(error, match="The model input got .*connect the MODEL"):
            host.HostBaseModel(model, *mini[1:])
    for clip in (None, mini[0]):
        with pytest.raises(error, match="The clip input got .*connect Load Checkpoint.*or DualCLIPLoader"):
            host.HostBaseModel(mini[0], clip, mini[2])


WRONG = [None, "text", torch.zeros(1, 8, 8, 3), {}]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda value: type(value).__name__)
def test_every_node_names_the_wire_that_is_missing_or_wrong(
    host: ModuleType, error: type[Exception], core: ModuleType, pack: ModuleType, mini: Trio, wrong: Any
) -> None:
    adapter, some = adapter_for(host, core, mini, "merged"), pictures("snq")
    words = {"steps": 1, "sample_steps": 1, "sample_cfg": 1.0, "sample_every": 0, "sample_prompt": "", "run": "retrain", "seed": 0}
    sheet = {"prompts": "a", "size": 64, "seed": 1, "steps": 1, "cfg": 1.0}
    painted = {"kind": next(iter(dataset().KINDS)), "folder": dataset().PAINTED, "sets": 1, "pictures": 1, "resolution": 64}
    calls = [
        ("content", lambda: pack.B4MMergeAdapters.execute(wrong, adapter)),
        ("style", lambda: pack.B4MMergeAdapters.execute(adapter, wrong)),
        ("adapter", lambda: pack.B4MSaveAdapter.execute(wrong, "never", True)),
        ("adapter", lambda: pack.B4MAdapterFacts.execute(wrong)),
        ("adapter", lambda: pack.B4MApplyAdapter.execute(mini[0], wrong, 1.0, 1.0)),
        ("model", lambda: pack.B4MApplyAdapter.execute(wrong, adapter, 1.0, 1.0)),
        ("adapter", lambda: pack.B4MContactSheet.execute(*mini, wrong, some, some, **sheet)),
        ("content_pictures", lambda: pack.B4MContactSheet.execute(*mini, adapter, wrong, some, **sheet)),
        ("style_pictures", lambda: pack.B4MContactSheet.execute(*mini, adapter, some, wrong, **sheet)),
        ("clip", lambda: pack.B4MContactSheet.execute(mini[0], wrong, mini[2], adapter, some, some, **sheet)),
        ("vae", lambda: pack.B4MAuxiliaryPictures.execute(*mini[:2], wrong, **painted)),
        ("pictures", lambda: pack.B4MTrainContent.execute(*mini, wrong, **words)),
        ("model", lambda: pack.B4MTrainStyle.execute(wrong, *mini[1:], some, **words)),
        ("content", lambda: pack.B4MTrainTogether.execute(*mini, wrong, adapter, some, some, **words)),
        ("style", lambda: pack.B4MTrainTogether.execute(*mini, adapter, wrong, some, some, **words)),
        ("content_pictures", lambda: pack.B4MTrainTogether.execute(*mini, adapter, adapter, wrong, some, **words)),
        ("style_pictures", lambda: pack.B4MTrainTogether.execute(*mini, adapter, adapter, some, wrong, **words)),
    ]
    if wrong is not None:
        calls.append(("auxiliary", lambda: pack.B4MTrainContent.execute(*mini, some, wrong, **words)))
        calls.append(("style_auxiliary", lambda: pack.B4MTrainTogether.execute(*mini, adapter, adapter, some, some, None, wrong, **words)))
    for name, call in calls:
        with pytest.raises(error, match=f"(The input {name}|The {name} input) got .*connect"):
            call()


def dataset() -> ModuleType:
    return importlib.import_module("b4m_pack.nodes.dataset")


def graph(file: str, **lora: Any) -> dict[str, Any]:
    """Load Checkpoint, a LoRA, a patch of the model, and the node that is asked about."""
    return {
        "1": {"inputs": {"ckpt_name": file}},
        "2": {"inputs": {"model": ["1", 0], "lora_name": "plain.safetensors", "strength_model": 1.0, **lora}},
        "3": {"inputs": {"base": ["2", 0], "scale": 1.2}},
        "7": {"inputs": {"model": ["3", 0], "clip": ["1", 1], "vae": ["1", 2]}},
    }


DISTILLED = [
    ("sd_xl_turbo_1.0_fp16.safetensors", "Turbo", "1 to 4"),
    ("dreamshaperXL_v21TurboDPMSDE.safetensors", "Turbo", "1 to 4"),
    ("sub/juggernautXL_v9Rdphoto2Lightning.safetensors", "Lightning", "2 to 8"),
    ("XL\\realvisxlV40_v40LightningBakedvae.safetensors", "Lightning", "2 to 8"),
    ("my_sdxl-lcm.ckpt", "LCM", "4 to 8"),
    ("animeXLLCM.safetensors", "LCM", "4 to 8"),
    ("Hyper-SDXL-1step-Unet.safetensors", "Hyper", "1 to 8"),
    ("dmd2_sdxl_4step.safetensors", "DMD2", "4 to 8"),
]


@pytest.mark.parametrize(("file", "kind", "steps"), DISTILLED)
def test_a_distilled_checkpoint_or_lora_is_told_by_its_name(host: ModuleType, file: str, kind: str, steps: str) -> None:
    for prompt in (graph(file), graph("plain.safetensors", lora_name=file)):
        hidden = SimpleNamespace(prompt=prompt, unique_id="7")
        (note,) = host.training_note(hidden, host.Sampling(steps=25, guidance=5.0))
        assert f"distilled SDXL ({kind})" in note and f"sample_steps {steps}" in note and "(here 25 and 5)" in note
        assert host.painting_note(hidden, host.Sampling(steps=25, guidance=5.0))
    stacked = graph("plain.safetensors", lora_name="None", lora_1={"on": True, "lora": file, "strength": 0.8})
    assert host.training_note(SimpleNamespace(prompt=stacked, unique_id="7"), host.Sampling())
    stacked["2"]["inputs"]["lora_1"]["on"] = False
    assert host.training_note(SimpleNamespace(prompt=stacked, unique_id="7"), host.Sampling()) == []
    off = SimpleNamespace(prompt=graph("plain.safetensors", lora_name=file, strength_model=0.0), unique_id="7")
    assert host.training_note(off, host.Sampling()) == []


ORDINARY = ["sd_xl_base_1.0.safetensors", "hyperrealism_xl.safetensors", "helcmert.safetensors", "admdesign.safetensors"]


@pytest.mark.parametrize("file", ORDINARY)
def test_an_ordinary_name_gets_no_note(host: ModuleType, file: str) -> None:
    assert host.training_note(SimpleNamespace(prompt=graph(file), unique_id="7"), host.Sampling()) == []
    assert host.training_note(SimpleNamespace(prompt=None, unique_id=None), host.Sampling()) == []


def test_a_circle_of_nodes_comes_to_an_end(host: ModuleType) -> None:
    prompt = {"1": {"inputs": {"model": ["2", 0]}}, "2": {"inputs": {"model": ["1", 0]}}}
    assert host.training_note(SimpleNamespace(prompt=prompt, unique_id="1"), host.Sampling()) == []


OF_SDXL = ["sdxl_vae.safetensors", "madebyollin-sdxl-vae-fp16-fix.safetensors", "sd_xl_base_1.0_0.9vae.safetensors"]


OF_SD15 = ["vae-ft-mse-840000-ema-pruned.safetensors", "sd15.vae.pt"]


@pytest.mark.parametrize(("file", "notes"), [*((file, 1) for file in OF_SD15), *((file, 0) for file in OF_SDXL)])
def test_a_vae_of_stable_diffusion_1_5_is_told_by_its_name(host: ModuleType, file: str, notes: int) -> None:
    prompt = graph("plain.safetensors") | {"8": {"inputs": {"vae_name": file}}}
    prompt["7"]["inputs"]["vae"] = ["8", 0]
    found = host.training_note(SimpleNamespace(prompt=prompt, unique_id="7"), host.Sampling())
    assert len(found) == notes and all("is the VAE of Stable Diffusion 1.5" in note for note in found)
