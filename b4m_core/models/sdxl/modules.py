"""Every layer of SDXL by its names: diffusers' path, and those of the original network that kohya's LoRA files use.

Here a layer is called ``lora_unet_`` and diffusers' path, ``lora_te1_`` or ``lora_te2_`` and transformers' path, with _
for every dot. In the original network input block 1 + i (L + 1) + j and output block i (L + 1) + j are what diffusers
calls ResNet and attention j of level i, with L = 2 ResNets a level.
"""

import re

UNET, FIRST_TEXT, SECOND_TEXT = "lora_unet_", "lora_te1_", "lora_te2_"
RESNETS_PER_LEVEL = 2
_STRIDE = RESNETS_PER_LEVEL + 1
TOKEN_EMBEDDINGS = tuple(f"{prefix}text_model_embeddings_token_embedding" for prefix in (FIRST_TEXT, SECOND_TEXT))
"""The tables of token embeddings of both text encoders."""
_IN_COMFYUI = {
    key: f"text_encoders.{name}.transformer.text_model.embeddings.token_embedding"
    for key, name in zip(TOKEN_EMBEDDINGS, ("clip_l", "clip_g"), strict=True)
}
"""kohya's files have no name for them; ComfyUI's loader knows every weight of a text encoder by one of this form."""
_RESNET = {
    "in_layers_0": "norm1",
    "in_layers_2": "conv1",
    "emb_layers_1": "time_emb_proj",
    "out_layers_0": "norm2",
    "out_layers_3": "conv2",
    "skip_connection": "conv_shortcut",
}
_ALONE = {
    "input_blocks_0_0": "conv_in",
    "time_embed_0": "time_embedding_linear_1",
    "time_embed_2": "time_embedding_linear_2",
    "label_emb_0_0": "add_embedding_linear_1",
    "label_emb_0_2": "add_embedding_linear_2",
    "out_0": "conv_norm_out",
    "out_2": "conv_out",
}
_RESNET_BACK = {theirs: original for original, theirs in _RESNET.items()}
_ALONE_BACK = {theirs: original for original, theirs in _ALONE.items()}
_ORIGINAL = re.compile(r"(input_blocks|output_blocks)_(\d+)_(\d+)(?:_(.+))?|middle_block_([012])(?:_(.+))?")
_DIFFUSERS = re.compile(
    r"(?:(down|up)_blocks_(\d+)|mid_block)_(attentions|resnets|downsamplers|upsamplers)_(\d+)(?:_(.+))?"
)
_ATTENTION = re.compile(
    r"lora_unet_(?:(down|up)_blocks_(\d+)|mid_block)_attentions_(\d+)_transformer_blocks_(\d+)_(attn[12])_(to_q|to_k|to_v|to_out_0)"
)
_CONVOLUTION = re.compile(
    r"lora_unet_(?:mid_block_resnets|(down|up)_blocks_(\d+)_(?:resnets|(downsamplers|upsamplers)))_(\d+)_(conv1|conv2|conv_shortcut|conv)"
)
_PREFIXES = (
    (re.compile(r"(?:lora_te1_|text_encoder_(?!2_)|text_encoders_clip_l_transformer_)"), FIRST_TEXT),
    (re.compile(r"(?:lora_te2_|text_encoder_2_|text_encoders_clip_g_transformer_)"), SECOND_TEXT),
    (re.compile(r"(?:lora_unet_|lycoris_|oft_unet_|unet_|diffusion_model_)?(?:base_model_model_)?"), UNET),
)


def layer_key(module: str) -> str | None:
    """The name of a layer here, from any other tool's name of it (with dots or _); None for no layer of an SDXL."""
    flat = module.replace(".", "_")
    for pattern, prefix in _PREFIXES:
        match = pattern.match(flat)
        if match and (prefix == UNET or match.end()):
            rest = flat[match.end() :].removeprefix("base_model_model_")
            found = _unet_layer(rest) if prefix == UNET else _text_layer(rest)
            return None if found is None else prefix + found
    return None


def _text_layer(rest: str) -> str | None:
    rest = rest if rest.startswith(("text_model_", "text_projection")) else f"text_model_{rest}"
    inside = r"text_model_(?:encoder_layers_\d+_\w+|embeddings_\w+|final_layer_norm)|text_projection"
    return rest if re.fullmatch(inside, rest) else None


def _unet_layer(rest: str) -> str | None:
    """diffusers' name, with underscores, of a layer of the network, from whichever name a file has for it; None for any
    other.
    """
    rest = re.sub(r"(_attn[12])_processor_", r"\1_", rest)
    rest = re.sub(r"(_attn[12]_to_out)$", r"\1_0", rest)
    if rest in _ALONE:
        return _ALONE[rest]
    if rest in _ALONE_BACK:
        return rest
    match = _ORIGINAL.fullmatch(rest)
    if match is not None:
        rest = _diffusers_name(match) or ""
    return rest if _DIFFUSERS.fullmatch(rest) else None


def _diffusers_name(match: re.Match[str]) -> str | None:
    """diffusers' name of a block's layer, from its name in the original network."""
    side, number, part, inner, middle, middle_inner = match.groups()
    if middle is not None:
        if middle == "1":
            return _joined("mid_block_attentions_0", middle_inner)
        return _joined(f"mid_block_resnets_{int(middle) // 2}", _RESNET.get(middle_inner or "", middle_inner))
    block, inside, down = int(number), int(part), side == "input_blocks"
    level, index = divmod(block - 1 if down else block, _STRIDE)
    name = "down_blocks" if down else "up_blocks"
    if down and index == RESNETS_PER_LEVEL:
        return f"{name}_{level}_downsamplers_0_conv" if inner == "op" else None
    if inner == "conv":
        return f"{name}_{level}_upsamplers_0_conv"
    if inside == 0:
        return _joined(f"{name}_{level}_resnets_{index}", _RESNET.get(inner or "", inner))
    return _joined(f"{name}_{level}_attentions_{index}", inner) if inside == 1 else None


def _joined(block: str, inner: str | None) -> str:
    return f"{block}_{inner}" if inner else block


def original_key(key: str) -> str:
    """The name that kohya's SDXL files have for the layer ``key``, which is one of :func:`layer_key`'s; for the token
    embeddings, which they do not have, that of ComfyUI's loader.
    """
    rest = key.removeprefix(UNET)
    if rest == key:
        return _IN_COMFYUI.get(key, key)
    if rest in _ALONE_BACK:
        return UNET + _ALONE_BACK[rest]
    match = _DIFFUSERS.fullmatch(rest)
    if match is None:
        return key
    side, level, kind, index, inner = match.groups()
    resnet = _RESNET_BACK.get(inner or "", inner)
    if side is None:
        return UNET + (
            _joined("middle_block_1", inner)
            if kind == "attentions"
            else _joined(f"middle_block_{2 * int(index)}", resnet)
        )
    down = side == "down"
    first = int(level) * _STRIDE + (1 if down else 0)
    block = "input_blocks" if down else "output_blocks"
    if kind == "downsamplers":
        return f"{UNET}{block}_{first + RESNETS_PER_LEVEL}_0_op"
    if kind == "upsamplers":
        return f"{UNET}{block}_{first + RESNETS_PER_LEVEL}_2_conv"
    inside = f"{block}_{first + int(index)}_{int(kind == 'attentions')}"
    return UNET + _joined(inside, inner if kind == "attentions" else resnet)


def attention_path(key: str) -> str | None:
    """diffusers' path, with dots, of an attention projection; None for any other layer."""
    match = _ATTENTION.fullmatch(key)
    if match is None:
        return None
    side, level, attention, depth, attn, projection = match.groups()
    block = "mid_block" if side is None else f"{side}_blocks.{level}"
    projection = projection.replace("_0", ".0")
    return f"{block}.attentions.{attention}.transformer_blocks.{depth}.{attn}.{projection}"


def convolution_path(key: str) -> str | None:
    """diffusers' path, with dots, of a convolution of a block; None for any other layer."""
    match = _CONVOLUTION.fullmatch(key)
    if match is None:
        return None
    side, level, sampler, index, conv = match.groups()
    if sampler not in (None, f"{side}samplers") or (conv == "conv") is (sampler is None):
        return None
    block = "mid_block" if side is None else f"{side}_blocks.{level}"
    return f"{block}.{sampler or 'resnets'}.{index}.{conv}"


def key_of_path(path: str) -> str:
    """The inverse of :func:`attention_path` and :func:`convolution_path`."""
    return UNET + path.replace(".", "_")
