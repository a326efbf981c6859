"""Names of the layers that get an update: diffusers' module path on one side, the key that kohya's SDXL LoRA files use
on the other.
"""

from ...errors import B4MError
from .modules import attention_path, convolution_path, key_of_path, layer_key, original_key


def kernel_of(path: str) -> int:
    """The side of the kernel of a block's convolution, 1 of a shortcut and 3 of any other; 0 for any other layer, the
    first and the last convolution among them.
    """
    if convolution_path(key_of_path(path)) != path:
        return 0
    return 1 if path.endswith("conv_shortcut") else 3


def kohya_key(path: str) -> str:
    """``down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q`` ->
    ``lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q``.
    """
    key = key_of_path(path)
    if path not in (attention_path(key), convolution_path(key)):
        raise B4MError(f"Layer {path} has no name in an SDXL LoRA file: the network is not an SDXL UNet.")
    return original_key(key)


def module_path(key: str) -> str:
    """The inverse of :func:`kohya_key`."""
    layer = layer_key(key) or ""
    path = attention_path(layer) or convolution_path(layer)
    if path is None or kohya_key(path) != key:
        raise B4MError(f"Layer {key[:80]!r} is neither an attention projection nor a convolution of SDXL: this is not a B4M adapter.")
    return path
