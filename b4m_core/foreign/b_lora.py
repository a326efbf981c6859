"""B-LoRA (Frenkel et al., ECCV 2024, arXiv 2403.14572): a LoRA of two attentions, one for content and one for style."""

from collections.abc import Collection

BLOCKS = {"content": "lora_unet_up_blocks_0_attentions_0_", "style": "lora_unet_up_blocks_0_attentions_1_"}


def concept_of(key: str) -> str:
    """Whose a layer is in a B-LoRA; nothing for one that no B-LoRA has."""
    return next((concept for concept, block in BLOCKS.items() if key.startswith(block)), "")


def is_one(keys: Collection[str]) -> bool:
    """Whether these layers are a B-LoRA's, of one block or of both."""
    return bool(keys) and all(concept_of(key) for key in keys)
