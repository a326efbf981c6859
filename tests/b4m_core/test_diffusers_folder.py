"""A base model from a folder: what it reads, how it encodes, and every folder that is no SDXL."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import tiny
import torch
from diffusers import DDPMScheduler
from tiny_folder import SIZE, write_folder, write_tokenizer
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, CLIPTokenizerFast

from b4m_core import Adapter, B4MError, Facts, Plan, RunStore, train
from b4m_core.diffusers_folder import DiffusersFolder
from b4m_core.objective import linear_beta_schedule

MINI = Path(__file__).resolve().parents[2] / "mini"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="module")
def base(folder: Path) -> DiffusersFolder:
    return DiffusersFolder(folder, steps=2)


def test_the_network_of_a_folder_is_frozen_and_ready(base: DiffusersFolder) -> None:
    assert not any(weight.requires_grad for weight in base.unet.parameters()) and not base.unet.training
    expected = tiny.tiny_unet().state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in base.unet.state_dict().items())
    assert base.name == "small" and base.native_size == SIZE and base.device == torch.device("cpu") and base.dtype == torch.float32


def test_a_folder_without_a_scheduler_has_sdxl_s_own_schedule(base: DiffusersFolder) -> None:
    torch.testing.assert_close(base.schedule.alphas_cumprod, linear_beta_schedule(), rtol=1e-4, atol=1e-6)
    assert base.schedule.prediction == "epsilon" and len(base.schedule) == 1000


@pytest.mark.parametrize("zero_terminal", [False, True])
def test_prediction_and_schedule_are_read_from_the_folder(zero_terminal: bool, tmp_path: Path) -> None:
    config = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": zero_terminal, "beta_start": 0.001, "beta_end": 0.01,
              "beta_schedule": "scaled_linear", "num_train_timesteps": 500}  # fmt: skip
    schedule = DiffusersFolder(write_folder(tmp_path / "v", scheduler=config)).schedule
    expected = DDPMScheduler(
        beta_start=0.001, beta_end=0.01, beta_schedule="scaled_linear", num_train_timesteps=500, rescale_betas_zero_snr=zero_terminal
    )
    assert schedule.prediction == "v_prediction" and torch.equal(schedule.alphas_cumprod.float(), expected.alphas_cumprod)
    assert (float(schedule.alphas_cumprod[-1]) == 0) is zero_terminal


def test_pictures_become_scaled_latents_of_an_eighth_of_their_size(base: DiffusersFolder) -> None:
    pixels = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    latents = base.encode_pictures(pixels)
    assert latents.shape == (2, 4, 8, 12) and latents.dtype == torch.float32
    expected = base._vae.encode(pixels * 2 - 1).latent_dist.mean * 0.13025
    torch.testing.assert_close(latents, expected.detach())
    assert torch.equal(latents, base.encode_pictures(pixels))


def test_a_folder_with_the_small_vae_encodes_as_well(tmp_path: Path) -> None:
    latents = DiffusersFolder(write_folder(tmp_path / "t", tiny_vae=True)).encode_pictures(torch.rand(1, 3, 64, 64))
    assert latents.shape == (1, 4, 8, 8)


def test_text_becomes_the_last_but_one_states_of_both_encoders(base: DiffusersFolder, folder: Path) -> None:
    context, pooled = base.encode_text(["a bear", "snq"])
    assert context.shape == (2, 77, tiny.TEXT_WIDTH) and pooled.shape == (2, tiny.POOLED) and context.dtype == torch.float32
    parts = []
    for number, (name, kind) in enumerate((("text_encoder", CLIPTextModel), ("text_encoder_2", CLIPTextModelWithProjection))):
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", pad_token="!" if number else "<|endoftext|>")
        ids = tokenizer(["a bear", "snq"], padding="max_length", max_length=77, return_tensors="pt").input_ids
        assert ids[1, 5].item() == (0 if number else len(tokenizer) - 1)
        output = kind.from_pretrained(folder / name)(ids, output_hidden_states=True)
        parts.append(output.hidden_states[-2])
    torch.testing.assert_close(context, torch.cat(parts, dim=-1).detach())
    torch.testing.assert_close(pooled, output.text_embeds.detach())


def test_painting_is_a_function_of_prompt_and_seed(base: DiffusersFolder) -> None:
    def sample(prompt: str, seed: int) -> torch.Tensor:
        return base.sample(prompt, width=64, height=96, seed=seed)

    first = sample("a bear", 1)
    assert first.shape == (96, 64, 3) and first.dtype == torch.float32 and float(first.min()) >= 0 and float(first.max()) <= 1
    assert torch.equal(first, sample("a bear", 1))
    assert not torch.equal(first, sample("a bear", 2)) and not torch.equal(first, sample("a house", 1))


def test_the_fingerprint_follows_every_weight_that_is_used(folder: Path, tmp_path: Path) -> None:
    seen = {DiffusersFolder(folder).fingerprint}
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        copy = tmp_path / part
        shutil.copytree(folder, copy)
        file = next((copy / part).glob("*.safetensors"))
        raw = file.read_bytes()
        file.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
        seen.add(DiffusersFolder(copy).fingerprint)
    shutil.copytree(folder, tmp_path / "same")
    assert len(seen) == 5 and DiffusersFolder(tmp_path / "same").fingerprint in seen


def test_a_folder_first_used_in_inference_mode_can_be_trained_afterwards(folder: Path, tmp_path: Path) -> None:
    base = DiffusersFolder(folder, steps=1)
    with torch.inference_mode():
        base.sample("a bear", width=64, height=64, seed=0)
        trained = train(Plan("content", tiny.picture_set(1), (), tiny.settings(steps=1)), base, RunStore(tmp_path))
    assert trained.facts.base == base.network_fingerprint


def test_adding_an_adapter_to_the_weights_changes_what_is_painted(folder: Path) -> None:
    base = DiffusersFolder(folder, steps=1)
    before = base.sample("a bear", width=64, height=64, seed=0)
    adapter = tiny.filled(Adapter.for_unet(base.unet, Facts(role="merged", rank=2)), scale=1.0)
    name, layer = next(iter(adapter.layers.items()))
    weight = base.unet.get_submodule(name).weight.clone()
    base.with_adapter(adapter, 0.5, 2.0)
    a, b, c, d = layer.A, 2 * layer.B.detach(), layer.C, 0.5 * layer.D.detach()
    expected = torch.cat([torch.cat([torch.zeros(len(a), c.shape[1]), a @ d], 1), torch.cat([b @ c, b @ d], 1)])
    torch.testing.assert_close(base.unet.get_submodule(name).weight - weight, expected, rtol=1e-4, atol=1e-5)
    assert not torch.equal(before, base.sample("a bear", width=64, height=64, seed=0))


def test_an_adapter_of_another_model_is_refused_and_no_weight_moves(folder: Path) -> None:
    base = DiffusersFolder(folder)
    with pytest.raises(B4MError, match="trained on a model of another kind"):
        base.with_adapter(tiny.small_adapter("merged"), 1.0, 1.0)
    expected = tiny.tiny_unet().state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in base.unet.state_dict().items())


def change_config(folder: Path, **values: object) -> None:
    file = folder / "unet" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize(
    "values,kind",
    [
        ({"addition_embed_type": None, "cross_attention_dim": 768}, "Stable Diffusion 1"),
        ({"addition_embed_type": None, "cross_attention_dim": 1024}, "Stable Diffusion 2"),
        ({"cross_attention_dim": 1280}, "the SDXL refiner"),
        ({"addition_embed_type": "image", "cross_attention_dim": 33}, "another kind of model"),
    ],
)
def test_a_model_that_is_not_sdxl_is_refused_by_its_name(values: dict[str, object], kind: str, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "m")
    change_config(tmp_path / "m", **values)
    with pytest.raises(B4MError, match=f"m is {kind}, and B4M trains SDXL: choose an SDXL model folder"):
        DiffusersFolder(tmp_path / "m")


def without_config(folder: Path) -> None:
    (folder / "unet" / "config.json").unlink()


def with_pickles_only(folder: Path) -> None:
    for file in (folder / "unet").glob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))


def with_a_broken_config(folder: Path) -> None:
    (folder / "unet" / "config.json").write_text("{ not json")


def without_a_vae(folder: Path) -> None:
    shutil.rmtree(folder / "vae")


def without_a_text_encoder(folder: Path) -> None:
    shutil.rmtree(folder / "text_encoder_2")


def with_a_pickled_vae(folder: Path) -> None:
    for file in (folder / "vae").glob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))


def with_half_a_network(folder: Path) -> None:
    file = next((folder / "unet").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:1000])


def without_a_tokenizer(folder: Path) -> None:
    shutil.rmtree(folder / "tokenizer")


@pytest.mark.parametrize(
    "damage",
    [
        without_config, with_pickles_only, with_a_broken_config, without_a_vae, without_a_text_encoder, with_a_pickled_vae,
        with_half_a_network, without_a_tokenizer,
    ],
)  # fmt: skip
def test_a_folder_that_lacks_a_part_is_refused_in_a_sentence(damage: Callable[[Path], None], folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "m")
    damage(tmp_path / "m")
    with pytest.raises(B4MError) as caught:
        base = DiffusersFolder(tmp_path / "m", steps=1)
        base.encode_text(["a bear"])
        base.encode_pictures(torch.zeros(1, 3, 64, 64))
        assert base.unet is not None
    assert "m" in str(caught.value) and "\n" not in str(caught.value)


def test_a_tokenizer_from_elsewhere_serves_a_folder_that_has_none(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "m")
    for name in ("tokenizer", "tokenizer_2"):
        shutil.rmtree(tmp_path / "m" / name)
    elsewhere = write_tokenizer(tmp_path / "elsewhere")
    expected = DiffusersFolder(folder).encode_text(["a bear"])
    actual = DiffusersFolder(tmp_path / "m", tokenizer=elsewhere).encode_text(["a bear"])
    assert torch.equal(expected[0], actual[0]) and torch.equal(expected[1], actual[1])


def test_the_embedded_model_is_an_sdxl_that_can_be_trained() -> None:
    base = DiffusersFolder(MINI)
    config = json.loads((MINI / "unet" / "config.json").read_text())
    assert base.native_size == 8 * config["sample_size"] and base.schedule.prediction == "epsilon"
    with torch.device("meta"):
        from diffusers import UNet2DConditionModel

        unet = UNet2DConditionModel.from_config(config)
    adapter = Adapter.for_unet(unet, Facts(role="content", rank=4))
    assert len(adapter.layers) > 100 and adapter.learned_numbers() == adapter.frozen_numbers()


def as_fp16_variant(folder: Path) -> None:
    """Only ``*.fp16.safetensors``, as half-size downloads have it."""
    for file in folder.glob("*/*.safetensors"):
        half = {key: value.half() for key, value in safetensors.torch.load_file(file).items()}
        safetensors.torch.save_file(half, file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")), {"format": "pt"})
        file.unlink()


def test_the_fp16_variant_alone_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "half")
    as_fp16_variant(tmp_path / "half")
    half, whole = DiffusersFolder(tmp_path / "half", steps=1), DiffusersFolder(folder, steps=1)
    for name, weight in half.unet.state_dict().items():
        assert weight.dtype == torch.float32 and torch.equal(weight, whole.unet.state_dict()[name].half().float())
    assert half.network_fingerprint == whole.network_fingerprint
    pictures = [base.sample("a bear", width=64, height=64, seed=0) for base in (half, whole)]
    assert float((pictures[0] - pictures[1]).abs().max()) < 0.05


def test_of_plain_weights_and_a_variant_beside_each_other_the_plain_ones_are_read(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "two")
    for file in (tmp_path / "two").glob("unet/*.safetensors"):
        zeros = {key: torch.zeros_like(value) for key, value in safetensors.torch.load_file(file).items()}
        safetensors.torch.save_file(zeros, file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")), {"format": "pt"})
    base = DiffusersFolder(tmp_path / "two")
    assert base.network_fingerprint == DiffusersFolder(folder).network_fingerprint
    assert all(float(weight.abs().max()) > 0 for name, weight in base.unet.named_parameters() if name.endswith("to_q.weight"))


def test_a_tokenizer_of_one_file_reads_a_prompt_as_one_of_two_files_does(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "today")
    for name in ("tokenizer", "tokenizer_2"):
        CLIPTokenizerFast.from_pretrained(folder / name).save_pretrained(tmp_path / "today" / name)
        for file in ("vocab.json", "merges.txt"):
            (tmp_path / "today" / name / file).unlink(missing_ok=True)
        assert (tmp_path / "today" / name / "tokenizer.json").is_file()
    words = ["a bear", "snq, w@z & more"]
    for left, right in zip(DiffusersFolder(tmp_path / "today").encode_text(words), DiffusersFolder(folder).encode_text(words), strict=True):
        assert torch.equal(left, right)


def test_a_tokenizer_that_is_named_helps_where_the_folder_has_a_useless_one(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "m")
    for name in ("tokenizer", "tokenizer_2"):
        (tmp_path / "m" / name / "vocab.json").unlink()
    with pytest.raises(B4MError, match="m has no tokenizer: name a folder with CLIP's tokenizer.json.* by --tokenizer"):
        DiffusersFolder(tmp_path / "m").encode_text(["a"])
    named = DiffusersFolder(tmp_path / "m", tokenizer=folder / "tokenizer")
    assert torch.equal(named.encode_text(["a bear"])[0], DiffusersFolder(folder).encode_text(["a bear"])[0])


def test_a_damaged_tokenizer_is_a_sentence(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "m")
    (tmp_path / "m" / "tokenizer" / "vocab.json").write_text("{ no json")
    with pytest.raises(B4MError, match="m cannot be read: its tokenizer is missing or damaged"):
        DiffusersFolder(tmp_path / "m").encode_text(["a"])
