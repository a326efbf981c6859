"""Painting equals the graph's own nodes; nothing that B4M does changes MODEL, CLIP or VAE; fingerprints follow what is really used."""

from __future__ import annotations

import hashlib
import importlib
import os
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import comfy.model_management
import pytest
import small_sdxl
import torch
from torch import Tensor

import nodes

Trio = tuple[Any, Any, Any]
MINI = Path(__file__).resolve().parents[2] / "mini"
PROMPT, NEGATIVE = "a photo of a house in the snow", "watercolor"


def graph_picture(trio: Trio, seed: int, sampler_name: str, scheduler: str, width: int = 64, height: int = 48) -> Tensor:
    """The same picture by the host's own node classes."""
    model, clip, vae = trio
    with torch.inference_mode():
        (positive,), (negative,) = (nodes.CLIPTextEncode().encode(clip, text) for text in (PROMPT, NEGATIVE))
        (latent,) = nodes.EmptyLatentImage().generate(width, height, 1)
        (samples,) = nodes.KSampler().sample(model, seed, 3, 4.0, sampler_name, scheduler, positive, negative, latent)
        (images,) = nodes.VAEDecode().decode(vae, samples)
    return images[0].clone()


def our_picture(host: ModuleType, trio: Trio, seed: int, sampler_name: str = "euler", scheduler: str = "normal") -> Tensor:
    sampling = host.Sampling(steps=3, guidance=4.0, sampler_name=sampler_name, scheduler=scheduler, negative=NEGATIVE)
    return host.HostBaseModel(*trio, sampling=sampling).sample(PROMPT, width=64, height=48, seed=seed)


def bytes_of(trio: Trio) -> str:
    """sha256 over every tensor of the three objects as they lie in memory, with nothing loaded."""
    comfy.model_management.unload_all_models()
    model, clip, vae = trio
    whole = hashlib.sha256()
    for part in (model.model, clip.cond_stage_model, vae.first_stage_model):
        for name, weight in sorted(part.state_dict().items()):
            whole.update(name.encode() + str(weight.dtype).encode() + weight.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    whole.update(repr((model.patches_uuid, sorted(model.patches), sorted(model.object_patches), model.model_options)).encode())
    return whole.hexdigest()


@pytest.mark.parametrize(("sampler_name", "scheduler"), [("euler", "normal"), ("euler_ancestral", "karras"), ("dpmpp_2m", "exponential")])
def test_painting_equals_the_graph_pixel_for_pixel(host: ModuleType, mini: Trio, sampler_name: str, scheduler: str) -> None:
    ours = our_picture(host, mini, 7, sampler_name, scheduler)
    assert ours.shape == (48, 64, 3) and ours.dtype == torch.float32
    assert torch.equal(ours, graph_picture(mini, 7, sampler_name, scheduler))
    assert not torch.equal(ours, our_picture(host, mini, 8, sampler_name, scheduler))


def test_a_sample_with_an_adapter_equals_the_saved_file_loaded_by_the_host(host: ModuleType, mini: Trio) -> None:
    from safetensors.torch import save_file

    lora = {key: weight.half() for key, weight in small_sdxl.random_lora(mini[0], strength=0.1).items()}
    save_file(lora, host.loras_folder() / "sample.safetensors")
    host.refresh_lora_list()
    model, clip = nodes.LoraLoader().load_lora(mini[0], mini[1], "sample.safetensors", 1.0, 1.0)
    base = host.HostBaseModel(*mini, sampling=host.Sampling(3, 4.0, negative=NEGATIVE))
    sample = base.sample_with(lora, PROMPT, width=64, height=48, seed=7)
    assert torch.equal(sample, graph_picture((model, clip, mini[2]), 7, "euler", "normal"))
    assert torch.equal(base.sample(PROMPT, width=64, height=48, seed=7), graph_picture(mini, 7, "euler", "normal"))
    assert not torch.equal(sample, base.sample(PROMPT, width=64, height=48, seed=7))


def test_model_clip_and_vae_are_bit_identical_after_everything(host: ModuleType, mini: Trio) -> None:
    before = bytes_of(mini)
    base = host.HostBaseModel(*mini, sampling=host.Sampling(2))
    base.encode_text(["a car", "a house"])
    base.encode_pictures(torch.rand(2, 3, 64, 64))
    base.sample("a car", width=64, height=64, seed=0)
    base.sample_with(small_sdxl.random_lora(mini[0]), "a car", width=64, height=64, seed=0)
    with torch.no_grad():
        for weight in base.unet.parameters():
            weight.fill_(9.0)
    assert len(base.fingerprint) == 64 and bytes_of(mini) == before


def test_painting_leaves_the_global_random_state_alone(host: ModuleType, mini: Trio) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    our_picture(host, mini, 1)
    assert torch.equal(before, torch.random.get_rng_state())


def test_painting_for_lack_of_memory_is_an_error_of_its_own(host: ModuleType, mini: Trio, error: type[Exception], monkeypatch: Any) -> None:
    def no_memory(*_: Any, **__: Any) -> None:
        raise comfy.model_management.OOM_EXCEPTION("out of memory")

    monkeypatch.setattr("comfy.sample.sample", no_memory)
    with pytest.raises(host.PictureDoesNotFit, match="64 x 48"):
        our_picture(host, mini, 1)
    assert issubclass(host.PictureDoesNotFit, error)


def test_cancel_stops_painting_between_two_steps_and_is_raised_once(host: ModuleType, mini: Trio) -> None:
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(host.Cancelled):
        our_picture(host, mini, 1)
    our_picture(host, mini, 1)


def test_cancel_stops_a_training_at_its_next_progress_step(host: ModuleType) -> None:
    progress = host.Progress(10, "1:2:3")
    progress.update(1)
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(host.Cancelled):
        progress.update(2)


def test_latents_are_scaled_as_the_network_sees_them_and_decode_back(host: ModuleType, mini: Trio) -> None:
    model, _, vae = mini
    ramp = torch.linspace(0, 1, 64).expand(3, 64, 64)
    latents = host.encode_pictures(vae, model, torch.stack([ramp, ramp.mT]))
    assert latents.shape == (2, 4, 8, 8) and latents.dtype == torch.float32 and not latents.is_inference()
    with torch.inference_mode():
        expected = model.model.process_latent_in(vae.encode(torch.stack([ramp, ramp.mT]).movedim(1, -1)))
        back = vae.decode(model.model.process_latent_out(latents))
    assert torch.allclose(latents, expected, atol=1e-5)
    assert (back[0].movedim(-1, 0) - ramp).abs().mean() < 0.1


def test_text_equals_the_hosts_conditioning_and_long_prompts_are_repeated(host: ModuleType, mini: Trio) -> None:
    clip = mini[1]
    states, pooled = host.encode_text(clip, [PROMPT, "car " * 100])
    (short,), (long,) = (nodes.CLIPTextEncode().encode(clip, text)[0] for text in (PROMPT, "car " * 100))
    assert states.shape == (2, 154, short[0].shape[-1]) and not states.is_inference()
    assert torch.equal(states[0], short[0].repeat(1, 2, 1)[0]) and torch.equal(states[1], long[0][0])
    assert torch.equal(pooled[1], long[1]["pooled_output"][0])


def test_a_long_caption_is_encoded_whole_in_training_and_on_the_command_line_alike(host: ModuleType, core: ModuleType, mini: Trio) -> None:
    """Three pieces, as CLIPTextEncode gives them; the command line's encoder reads the same files."""
    long = "a photo of a house in the snow, " * 20
    base = host.HostBaseModel(*mini)
    ((expected, _),) = nodes.CLIPTextEncode().encode(mini[1], long)[0]
    given = base.family.encode_prompt(base, long)
    assert given["context"].shape[0] == 231 and torch.equal(given["context"], expected[0])
    folder = importlib.import_module("b4m_pack.b4m_core.diffusers_folder").DiffusersFolder(
        MINI, tokenizer=Path(os.environ["B4M_COMFYUI"]) / "comfy" / "sd1_tokenizer"
    )
    for prompt in (long, PROMPT, "", "word " * 75, "word " * 76):
        ours = folder.encode_text([prompt])
        theirs = host.encode_text(mini[1], [prompt])
        assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(ours, theirs, strict=True)), prompt
    pictures = [folder.sample(long + end, width=64, height=64, seed=1) for end in ("at night", "by day")]
    assert not torch.equal(*pictures)


def test_fingerprint_is_instant_for_unchanged_objects_and_follows_an_upstream_lora(host: ModuleType, mini: Trio) -> None:
    model, clip, vae = mini
    first = host.fingerprint(model, clip, vae)
    started = time.process_time()
    assert host.fingerprint(model.clone(), clip.clone(), vae) == first and time.process_time() - started < 0.05
    lora = small_sdxl.random_lora(model)
    patched = host.fingerprint(host.apply_lora(model, lora), clip, vae)
    assert patched not in (first, host.fingerprint(host.apply_lora(model, lora, 0.5), clip, vae))
    assert patched == host.fingerprint(host.apply_lora(model, lora), clip, vae)


def test_the_network_of_the_mini_model_has_the_fingerprint_that_the_command_line_gives_it(host: ModuleType, mini: Trio) -> None:
    folder = importlib.import_module("b4m_pack.b4m_core.diffusers_folder").DiffusersFolder(MINI)
    assert host.network_fingerprint(mini[0]) == folder.network_fingerprint == host.HostBaseModel(*mini).network_fingerprint


def test_the_networks_fingerprint_is_quick_and_follows_an_upstream_lora_but_no_dtype(host: ModuleType) -> None:
    model = small_sdxl.small_model(torch.float16)
    single = small_sdxl.small_model(torch.float32)
    single.model.diffusion_model.load_state_dict(model.model.diffusion_model.state_dict())
    started = time.process_time()
    first = host.network_fingerprint(model)
    assert time.process_time() - started < 1 and host.network_fingerprint(single) == first
    patched = host.apply_lora(model, small_sdxl.random_lora(model))
    assert host.network_fingerprint(patched) != first == host.network_fingerprint(model)
    comfy.model_management.load_models_gpu([patched], force_full_load=True)
    assert host.network_fingerprint(model) == first  # while the shared network holds the patched clone's weights


def test_fingerprint_does_not_depend_on_what_is_loaded_now(host: ModuleType, mini: Trio) -> None:
    model = small_sdxl.small_model()
    patched = host.apply_lora(model, small_sdxl.random_lora(model))
    small_sdxl.host_output(patched, small_sdxl.inputs())
    loaded = host.fingerprint(patched, *mini[1:])
    fresh = small_sdxl.small_model()
    assert loaded == host.fingerprint(host.apply_lora(fresh, small_sdxl.random_lora(fresh)), *mini[1:])


def test_fingerprint_follows_clip_skip_and_the_noise_schedule(host: ModuleType, mini: Trio) -> None:
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    model, clip, vae = mini
    (skipped,) = nodes.CLIPSetLastLayer().set_last_layer(clip, -3)
    (velocity,) = ModelSamplingDiscrete().patch(model, "v_prediction", True)
    prints = {host.fingerprint(*trio) for trio in ((model, clip, vae), (model, skipped, vae), (velocity, clip, vae))}
    assert len(prints) == 3


def test_the_mini_model_is_loaded_once_and_knows_its_native_size(host: ModuleType, mini: Trio) -> None:
    assert all(a is b for a, b in zip(host.mini_model(), mini, strict=True))
    native = host.native_size(mini[0])
    pooled = torch.zeros(1, mini[1].cond_stage_model.clip_g.transformer.text_projection.weight.shape[0])
    plain, told = (mini[0].model.encode_adm(pooled_output=pooled, **sizes) for sizes in ({}, {"width": native, "height": native}))
    assert torch.equal(plain, told) and not torch.equal(plain, mini[0].model.encode_adm(pooled_output=pooled, width=768, height=768))


def test_the_checkpoint_name_is_found_through_lora_loaders(host: ModuleType) -> None:
    prompt = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd_xl_base_1.0.safetensors"}},
        "2": {"class_type": "LoraLoader", "inputs": {"model": ["1", 0], "lora_name": "x"}},
        "3:4": {"class_type": "B4MTrainContent", "inputs": {"model": ["2", 0]}},
        "5": {"class_type": "Loop", "inputs": {"model": ["5", 0]}},
    }
    assert host.checkpoint_name(prompt, "3:4") == "sd_xl_base_1.0.safetensors"
    assert host.checkpoint_name(prompt, "5") is None and host.checkpoint_name(None, None) is None
