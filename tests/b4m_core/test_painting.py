"""Painting as a library's user does: the weights stay as they were, also in the middle of a training."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image
from tiny_folder import write_folder

from b4m_core import Adapter, B4MError, Facts, as_image, load_adapter, load_model, paint, save_adapter, strength_table
from b4m_core.commandline import main
from b4m_core.diffusers_folder import DiffusersFolder
from b4m_core.embedded import embedded_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> DiffusersFolder:
    return load_model(write_folder(tmp_path_factory.mktemp("painting") / "model"), device="cpu", steps=2)


@pytest.fixture(scope="module")
def adapter(base: DiffusersFolder) -> Adapter:
    """A merged one that says what it was taught."""
    from b4m_core import Concept

    facts = Facts(role="merged", rank=2, content=Concept("snq", "bear"), style=Concept("w@z", ""), split="free", file_dtype="float32")
    return tiny.filled(Adapter.for_unet(base.unet, facts), seed=3, scale=0.1)


def weights(base: DiffusersFolder) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in base.unet.state_dict().items()}


def test_a_picture_is_painted_with_the_adapter_and_the_weights_stay(base: DiffusersFolder, adapter: Adapter) -> None:
    before = weights(base)
    plain, both, off = (
        paint(base, "a snq bear in w@z style", *given, content=content, style=style, seed=5)
        for given, content, style in (((), 1, 1), ((adapter,), 1, 1), ((adapter,), 0, 0))
    )
    assert plain.shape == (64, 64, 3) and 0 <= plain.min() and plain.max() <= 1
    assert torch.equal(plain, off) and not torch.equal(plain, both)
    assert all(torch.equal(before[name], weight) for name, weight in base.unet.state_dict().items())
    assert torch.equal(paint(base, "a {content} in {style}", adapter, seed=5), both)


def test_the_weights_stay_when_painting_fails(base: DiffusersFolder, adapter: Adapter) -> None:
    before = weights(base)
    with pytest.raises(RuntimeError, match="out of memory"), base.wearing(adapter):
        raise RuntimeError("out of memory")
    assert all(torch.equal(before[name], weight) for name, weight in base.unet.state_dict().items())


def test_a_table_has_a_row_for_every_content_and_a_column_for_every_style(base: DiffusersFolder, adapter: Adapter) -> None:
    table = strength_table(base, "a bear", adapter, contents=(0, 1), styles=(0, 1, 2), seed=5)
    assert table.shape == (2, 3, 64, 64, 3)
    assert torch.equal(table[1, 2], paint(base, "a bear", adapter, content=1, style=2, seed=5))
    sheet = as_image(table)
    assert sheet.size == (192, 128) and sheet.crop((128, 64, 192, 128)).tobytes() == as_image(table[1, 2]).tobytes()
    with pytest.raises(B4MError, match="at least one strength"):
        strength_table(base, "a bear", adapter, contents=(), styles=(1,))


@pytest.mark.parametrize("size", [0, 31, 100])
def test_a_size_that_cannot_be_painted_is_named(size: int, base: DiffusersFolder) -> None:
    with pytest.raises(B4MError, match=f"The size is {size}: choose a multiple of 32"):
        paint(base, "a bear", size=size)


def test_without_a_path_the_embedded_model_is_loaded_and_a_device_that_is_not_there_is_named() -> None:
    assert load_model(device="cpu").folder == embedded_model() and load_model(device="cpu").native_size == 192
    with pytest.raises(B4MError, match="The device 'gpu' is none of PyTorch's"):
        load_model(device="gpu")
    with pytest.raises(B4MError, match="The device is cuda:99, and PyTorch finds"):
        load_model(device="cuda:99")
    with pytest.raises(B4MError, match="is not a model folder"):
        load_model("nowhere", device="cpu")


def test_samples_while_it_trains_are_kept_beside_the_run_and_change_no_byte(
    base: DiffusersFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bear").mkdir()
    Image.fromarray(tiny.picture(1).pixels).save(tmp_path / "bear" / "1.png")
    common = ["train", "content", "--pictures", str(tmp_path / "bear"), "--auxiliary-sets", "0", "--steps", "3", "--rank", "2"]
    common += ["--model", str(base.folder), "--device", "cpu", "--gradient-accumulation-steps", "1"]
    files = []
    for name, more in (("plain", []), ("sampled", ["--sample-every", "2", "--sample-prompt", "a bear"])):
        out = tmp_path / name / "x.safetensors"
        assert main([*common, "--store", str(tmp_path / name), "--out", str(out), *more]) == 0
        files.append(out.read_bytes())
    assert files[0] == files[1]
    samples = sorted((tmp_path / "sampled" / "runs").rglob("sample-*.jpg"))
    assert [sample.stem[-1] for sample in samples] == ["2", "3"] and Image.open(samples[0]).size == (64, 64)
    assert not list((tmp_path / "plain" / "runs").rglob("sample-*.jpg")) and "skipped" not in capsys.readouterr().err


def test_an_adapter_that_carries_other_layers_leaves_them_as_they_were(base: DiffusersFolder, adapter: Adapter, tmp_path: Path) -> None:
    from b4m_core.carried import Carried

    name = "mid_block.attentions.0.proj_in"
    size = base.unet.get_submodule(name).weight.shape
    tensors = {"lora_up.weight": torch.ones(size[0], 1), "lora_down.weight": torch.ones(1, size[1]), "alpha": torch.tensor(1.0)}
    piece = Carried("detail", "lora_unet_" + name.replace(".", "_"), tensors)
    wearing = adapter.carrying((piece,))
    save_adapter(wearing, tmp_path / "x.safetensors")
    before = weights(base)
    with base.wearing(load_adapter(tmp_path / "x.safetensors")):
        assert not torch.equal(before[f"{name}.weight"], base.unet.get_submodule(name).weight)
    assert all(torch.equal(before[key], weight) for key, weight in base.unet.state_dict().items())
