"""LoRA files in every layout that is read, of random numbers: by PEFT, diffusers and LyCORIS themselves where they can write them.

`WRITERS`: by name, (network, text encoders, folder, dtype) -> the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from b4m_core.models.family import adapted_layers
from b4m_core.models.sdxl import SDXL
from b4m_core.models.sdxl.modules import layer_key, original_key

RANK, SIZE = 4, 0.05
Tensors = dict[str, Tensor]
Writer = Callable[[nn.Module, Sequence[nn.Module], Path, torch.dtype], Path]
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
CONVOLUTIONS = ("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "conv_in")
OF_TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


class Numbers:
    """Random numbers, the same for one seed."""

    def __init__(self, seed: int = 1) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, size: float = SIZE) -> Tensor:
        return torch.randn(*shape, generator=self.generator) * size


def attentions(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """(path, Linear) of the layers that the split has a place for."""
    return list(adapted_layers(SDXL, network))


def ending(network: nn.Module, endings: Sequence[str]) -> list[tuple[str, nn.Module]]:
    """(path, layer) of those whose path ends so."""
    return [(path, layer) for path, layer in network.named_modules() if path.endswith(tuple(endings)) and hasattr(layer, "weight")]


def _kohya_layers(network: nn.Module, encoders: Sequence[nn.Module], which: str) -> Iterator[tuple[str, nn.Module]]:
    """kohya's names of layers: `attention`, `linear` (with feed-forward and text encoders) or `all` (with convolutions)."""
    found = attentions(network)
    if which != "attention":
        found += ending(network, FEED_FORWARD)
        for number, encoder in enumerate(encoders, start=1):
            for path, layer in ending(encoder, OF_TEXT):
                key = layer_key(f"text_encoder{'_2' if number == 2 else ''}.{path}")
                assert key is not None
                yield key, layer
    if which == "all":
        found += ending(network, CONVOLUTIONS)
    for path, layer in found:
        key = layer_key(f"unet.{path}")
        assert key is not None, path
        yield original_key(key), layer


def _lora(key: str, layer: Any, draw: Numbers, alpha: float | None = RANK / 2) -> Tensors:
    m, n, *kernel = layer.weight.shape
    tensors = {
        f"{key}.lora_up.weight": draw(m, RANK, *(1 for _ in kernel)),
        f"{key}.lora_down.weight": draw(RANK, n, *kernel),
    }
    return tensors if alpha is None else {**tensors, f"{key}.alpha": torch.tensor(alpha)}


def _of_kohya(which: str, one: Callable[[str, Any, Numbers], Tensors]) -> Writer:
    def write(network: nn.Module, encoders: Sequence[nn.Module], folder: Path, dtype: torch.dtype) -> Path:
        draw = Numbers()
        tensors: Tensors = {}
        for key, layer in _kohya_layers(network, encoders, which):
            tensors |= one(key, layer, draw)
        return _saved(tensors, folder / "kohya.safetensors", dtype)

    return write


def _saved(tensors: Tensors, path: Path, dtype: torch.dtype, metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()}, path, metadata)
    return path


def _dora(rows: bool) -> Callable[[str, Any, Numbers], Tensors]:
    def one(key: str, layer: Any, draw: Numbers) -> Tensors:
        weight = layer.weight.detach().float()
        dims = tuple(range(1, weight.ndim)) if rows else (0, *range(2, weight.ndim))
        norms = weight.norm(dim=dims, keepdim=True)
        return {**_lora(key, layer, draw), f"{key}.dora_scale": norms * (1 + draw(*norms.shape, size=0.1))}

    return one


def _with_core(key: str, layer: Any, draw: Numbers) -> Tensors:
    """A LoCon in CP decomposition where the layer is a convolution."""
    m, n, *kernel = layer.weight.shape
    if not kernel or kernel[0] == 1:
        return _lora(key, layer, draw)
    up, down, core = draw(m, RANK, 1, 1), draw(RANK, n, 1, 1), draw(RANK, RANK, *kernel, size=1.0)
    return {
        f"{key}.lora_up.weight": up,
        f"{key}.lora_down.weight": down,
        f"{key}.lora_mid.weight": core,
        f"{key}.alpha": torch.tensor(2.0),
    }


def _loha(key: str, layer: Any, draw: Numbers) -> Tensors:
    m, n, *kernel = layer.weight.shape
    tensors: Tensors = {f"{key}.alpha": torch.tensor(RANK / 2)}
    for number in (1, 2):
        if kernel and kernel[0] > 1:
            tensors[f"{key}.hada_t{number}"] = draw(RANK, RANK, *kernel, size=1.0)
            tensors[f"{key}.hada_w{number}_a"], tensors[f"{key}.hada_w{number}_b"] = (
                draw(RANK, m, size=0.2),
                draw(RANK, n, size=0.2),
            )
        else:
            tensors[f"{key}.hada_w{number}_a"], tensors[f"{key}.hada_w{number}_b"] = (
                draw(m, RANK, size=0.2),
                draw(RANK, n, size=0.2),
            )
    return tensors


def _lokr(whole: bool) -> Callable[[str, Any, Numbers], Tensors]:
    def one(key: str, layer: Any, draw: Numbers) -> Tensors:
        m, n, *kernel = layer.weight.shape
        a, b = (next(count for count in (8, 4, 2, 1) if size % count == 0) for size in (m, n))
        tensors = {f"{key}.lokr_w1": draw(a, b), f"{key}.alpha": torch.tensor(2.0)}
        if whole:
            return {**tensors, f"{key}.lokr_w2": draw(m // a, n // b, *kernel, size=0.2)}
        if kernel and kernel[0] > 1:
            core = {f"{key}.lokr_t2": draw(RANK, RANK, *kernel, size=1.0)}
            return {**tensors, **core, f"{key}.lokr_w2_a": draw(RANK, m // a), f"{key}.lokr_w2_b": draw(RANK, n // b)}
        return {**tensors, f"{key}.lokr_w2_a": draw(m // a, RANK), f"{key}.lokr_w2_b": draw(RANK, n // b)}

    return one


def _oft(key: str, layer: Any, draw: Numbers) -> Tensors:
    m, name = layer.weight.shape[0], key.replace("lora_unet", "oft_unet")
    return {f"{name}.oft_blocks": draw(4, m // 4, m // 4), f"{name}.alpha": torch.tensor(1e-3)}


def _whole(key: str, layer: Any, draw: Numbers) -> Tensors:
    tensors = {f"{key}.diff": draw(*layer.weight.shape, size=0.01)}
    return tensors if layer.bias is None else {**tensors, f"{key}.diff_b": draw(*layer.bias.shape, size=0.01)}


def _of_paths(pattern: Callable[[str, str], str], blocks: Sequence[str] = ("",)) -> Writer:
    """diffusers' older names: `pattern` gives a key from a path and up or down."""

    def write(network: nn.Module, encoders: Sequence[nn.Module], folder: Path, dtype: torch.dtype) -> Path:
        draw, tensors = Numbers(), {}
        for path, layer in attentions(network):
            if path.startswith(tuple(blocks)):
                m, n = layer.weight.shape
                tensors |= {pattern(path, "up"): draw(m, RANK), pattern(path, "down"): draw(RANK, n)}
        return _saved(tensors, folder / "pytorch_lora_weights.safetensors", dtype)

    return write


def _processor(path: str, factor: str) -> str:
    block, _, projection = path.replace("to_out.0", "to_out").rpartition(".")
    return f"unet.{block}.processor.{projection}_lora.{factor}.weight"


def _of_peft(kind: str, endings: Sequence[str], **settings: Any) -> Writer:
    """PEFT itself: a folder with adapter_model.safetensors and adapter_config.json."""

    def write(network: nn.Module, encoders: Sequence[nn.Module], folder: Path, dtype: torch.dtype) -> Path:
        import copy

        import peft

        config = getattr(peft, kind)(target_modules=list(endings), **settings)
        model = peft.get_peft_model(copy.deepcopy(network), config)
        draw = Numbers()
        with torch.no_grad():
            for name, weight in sorted(model.named_parameters()):
                if "magnitude" in name:
                    weight.mul_(1 + draw(*weight.shape, size=0.1))
                elif weight.requires_grad:
                    weight.copy_(draw(*weight.shape).to(weight).to(dtype))
        model.save_pretrained(folder)
        return folder / "adapter_model.safetensors"

    return write


def _of_diffusers(network: nn.Module, encoders: Sequence[nn.Module], folder: Path, dtype: torch.dtype) -> Path:
    """`save_lora_weights` of today's diffusers, alpha in the header."""
    import copy

    import peft
    from diffusers import StableDiffusionXLPipeline
    from diffusers.training_utils import _collate_lora_metadata

    config = peft.LoraConfig(r=RANK, lora_alpha=RANK / 4, target_modules=["to_q", "to_k", "to_v", "to_out.0", "ff.net.2"])
    unet: Any = copy.deepcopy(network)
    unet.add_adapter(config)
    draw, weights = Numbers(), {}
    for name, tensor in peft.get_peft_model_state_dict(unet, adapter_name="default").items():
        weights[name] = draw(*tensor.shape).to(dtype)
    StableDiffusionXLPipeline.save_lora_weights(folder, weights, **_collate_lora_metadata({"unet": unet}))
    return folder / "pytorch_lora_weights.safetensors"


def _of_lycoris(algo: str, alpha: float = RANK, **settings: Any) -> Writer:
    """LyCORIS itself. (Its own `merge_to` counts alpha twice for LoHa and LoKr, its forward pass once: there alpha is the rank.)"""

    def write(network: nn.Module, encoders: Sequence[nn.Module], folder: Path, dtype: torch.dtype) -> Path:
        import copy

        from lycoris import LycorisNetwork, create_lycoris

        LycorisNetwork.apply_preset({"target_module": ["Transformer2DModel", "ResnetBlock2D"]})
        made = create_lycoris(copy.deepcopy(network).float(), 1.0, linear_dim=RANK, linear_alpha=alpha, algo=algo, **settings)
        draw = Numbers()
        with torch.no_grad():
            found = {f"{each.lora_name}.{name}": tensor for each in made.loras for name, tensor in each.state_dict().items()}
            for name, weight in sorted(found.items()):
                if name.endswith(".alpha"):
                    continue
                if "dora_scale" in name or "rescale" in name:
                    weight.mul_(1 + draw(*weight.shape, size=0.1))
                else:
                    weight.copy_(draw(*weight.shape, size=0.01 if algo == "full" else SIZE))
        return _saved(found, folder / "lycoris.safetensors", dtype)

    return write


ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
B_LORA = ("up_blocks.0.attentions.0", "up_blocks.0.attentions.1")
WRITERS: dict[str, Writer] = {
    "kohya, attention": _of_kohya("attention", _lora),
    "kohya, feed-forward and text encoders": _of_kohya("linear", _lora),
    "kohya, LoCon": _of_kohya("all", _lora),
    "kohya, LoCon with a core": _of_kohya("all", _with_core),
    "kohya, DoRA by columns": _of_kohya("attention", _dora(False)),
    "kohya, DoRA by rows": _of_kohya("attention", _dora(True)),
    "kohya, LoHa": _of_kohya("all", _loha),
    "kohya, LoKr": _of_kohya("all", _lokr(False)),
    "kohya, LoKr of whole factors": _of_kohya("all", _lokr(True)),
    "kohya, OFT": _of_kohya("attention", _oft),
    "kohya, whole weights": _of_kohya("linear", _whole),
    "diffusers, lora.up": _of_paths(lambda path, factor: f"unet.{path}.lora.{factor}.weight"),
    "diffusers, processors": _of_paths(_processor),
    "diffusers, today's": _of_diffusers,
    "B-LoRA": _of_paths(lambda path, factor: f"unet.{path}.lora.{factor}.weight", B_LORA),
    "the paper's code": _of_paths(lambda path, factor: f"unet.unet.{path}.lora.{factor}.weight"),
    "PEFT, LoRA": _of_peft("LoraConfig", [*ATTENTION, "ff.net.2", "conv1"], r=RANK, lora_alpha=RANK / 2),
    "PEFT, rsLoRA with patterns": _of_peft(
        "LoraConfig", ATTENTION, r=RANK, lora_alpha=3, use_rslora=True, rank_pattern={"attn2.to_k": 8}, alpha_pattern={"attn1.to_q": 5}
    ),
    "PEFT, DoRA": _of_peft("LoraConfig", [*ATTENTION, "conv1"], r=RANK, lora_alpha=RANK / 2, use_dora=True),
    "PEFT, LoHa": _of_peft("LoHaConfig", ATTENTION, r=RANK, alpha=RANK / 2),
    "PEFT, LoKr": _of_peft("LoKrConfig", ATTENTION, r=RANK, alpha=RANK / 2),
    "PEFT, OFT": _of_peft("OFTConfig", ATTENTION, r=0, oft_block_size=16, init_weights=False),
    "LyCORIS, LoCon": _of_lycoris("locon", RANK / 2, conv_dim=RANK, conv_alpha=1),
    "LyCORIS, DoRA": _of_lycoris("locon", RANK / 2, dora_wd=True, wd_on_output=False),
    "LyCORIS, DoRA by rows": _of_lycoris("locon", RANK / 2, dora_wd=True, wd_on_output=True),
    "LyCORIS, LoHa": _of_lycoris("loha", conv_dim=RANK, conv_alpha=RANK, use_tucker=True),
    "LyCORIS, LoKr": _of_lycoris("lokr", factor=8),
    "LyCORIS, OFT": _of_lycoris("diag-oft", constraint=0, rescaled=True),
    "LyCORIS, whole weights": _of_lycoris("full"),
}  # fmt: skip
