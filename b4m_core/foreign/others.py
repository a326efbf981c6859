"""What a file is that is no LoRA of an SDXL, in one sentence."""

import re
from collections.abc import Collection

_LORA = re.compile(r"lora|lokr|hada|oft_|dora|\.diff")
_KINDS = (
    (r"double_blocks|single_blocks|single_transformer_blocks", "a LoRA for Flux"),
    (r"joint_blocks|transformer[._]transformer_blocks[._]\d+[._](?:attn[._]add|ff_context)", "a LoRA for Stable Diffusion 3"),
    (r"transformer_blocks[._]\d+[._](?:img_mlp|txt_mlp|attn[._]add_q)", "a LoRA for Qwen-Image"),
    (r"(?:^|[._])blocks[._]\d+[._](?:cross_attn|self_attn)[._]", "a LoRA for Wan"),
    (r"layers[._]\d+[._](?:attention|feed_forward)[._]", "a LoRA for Lumina or Z-Image"),
    (r"lora_prior_|down_blocks_\d+_\d+_attention", "a LoRA for Stable Cascade"),
    (r"lora_te_text_model|(?:down_blocks_0|up_blocks_3)_attentions", "a LoRA for Stable Diffusion 1 or 2"),
    (r"(?:input_blocks_[12]|output_blocks_(?:9|10|11))_1_", "a LoRA for Stable Diffusion 1 or 2"),
    (r"transformer[._]", "a LoRA for another kind of model"),
)  # fmt: skip
_NO_LORAS = (
    (r"^model\.diffusion_model\.", "a whole checkpoint: load it with Load Checkpoint"),
    (r"^(?:clip_[lg]|emb_params|string_to_param)", "a textual inversion: it belongs into the embeddings folder"),
    (r"control_model|input_hint_block|controlnet|lllite", "a ControlNet: load it with a ControlNet node"),
    (r"^(?:ip_adapter|image_proj)", "an IP-Adapter: load it with its own node"),
    (r"^(?:first_stage_model|decoder\.|encoder\.)", "a VAE: load it with Load VAE"),
)
_ALGORITHMS = ((r"\.[ab][12]\.weight$", "a GLoRA"), (r"\.on_input$", "an IA3"), (r"oft_diag", "an older OFT"))
LOADER = "connect the LoRA loader before B4M Apply LoRA instead, whose model may have LoRAs on it"


def what_it_is(keys: Collection[str]) -> str:
    """What a file with these keys is, and what to do with it: the end of a sentence that begins with its name."""
    flat = [key.replace(".", "_") for key in keys]
    if any(_LORA.search(key) for key in keys):
        for pattern, kind in _KINDS:
            if any(re.search(pattern, text) for pair in zip(keys, flat, strict=True) for text in pair):
                return f"is {kind}, and B4M needs one for SDXL: choose another one."
    for pattern, kind in _NO_LORAS:
        if any(re.search(pattern, key) for key in keys):
            return f"is {kind}."
    example = min(keys, key=len, default="")[:80]
    return f"has no layer of an SDXL (its first name is {example!r}): it is no LoRA for SDXL, so choose another one."


def algorithm_of(key: str) -> str:
    """The name of an algorithm that B4M does not read, told by a key of an SDXL's layer; empty for none of these."""
    return next((name for pattern, name in _ALGORITHMS if re.search(pattern, key)), "")
