"""ComfyUI's own TrainLoraNode, from a folder with ComfyUI's sources; a process of its own, for peer_process.py.

Everything that is timed is ComfyUI's: the node's ``execute``, its sampler and guider, its model patcher and its SDXL network. Ours are the
random weights, latents and prompts, and the clock, which hangs on ComfyUI's progress hook: the node calls it after each step of its
optimiser.

The node's defaults hold (AdamW, bf16 for training and for the LoRA), but for the rank and for gradient checkpointing, which is off: none of
the others recomputes. The weights are bf16, so that nothing has to be cast. The node trains every weight and every bias of the network, the
convolutions' too, and adds BA to W for each; it has no way to train the attention projections alone.

It offers two ways to make one step of four pictures. A *batch of four* it runs once with each of its four prompts and takes the mean of the
answers, so that sixteen rows go through the network; and it can *accumulate* the gradients of four single pictures.
"""

import contextlib
import logging
import sys
from collections.abc import Mapping
from typing import Any

import torch

from .clock import Reading
from .peer_process import Enough, Job, Watch, answer, asked

STEPS = 40
"""More than are ever watched."""


def unet_config(network: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The network in ComfyUI's words; for SDXL's own size what its model_detection.py has."""
    channels, layers = network["block_out_channels"], network["layers_per_block"]
    blocks = zip(network["down_block_types"], network["transformer_layers_per_block"], strict=True)
    depths = [depth if kind.startswith("CrossAttn") else 0 for kind, depth in blocks]
    last = len(channels) - 1
    return {
        "use_checkpoint": False,
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "use_spatial_transformer": True,
        "legacy": False,
        "num_classes": "sequential",
        "adm_in_channels": network["projection_class_embeddings_input_dim"],
        "dtype": dtype,
        "model_channels": channels[0],
        "num_res_blocks": [layers] * len(channels),
        "channel_mult": [width // channels[0] for width in channels],
        "transformer_depth": [depth for depth in depths for _ in range(layers)],
        "transformer_depth_middle": depths[-1],
        "transformer_depth_output": [depth for depth in depths for _ in range(layers + 1)],
        "use_linear_in_transformer": True,
        "context_dim": network["cross_attention_dim"],
        "num_head_channels": channels[last] // network["attention_head_dim"][last],
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
    }


def random_patcher(job: Job) -> Any:
    """ComfyUI's model patcher around its SDXL network."""
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models

    class AnySize(comfy.supported_models.SDXL):
        """The class says which checkpoints it is for, and takes no other width of the prompt."""

        unet_config: dict[str, Any] = {}

    dtype = getattr(torch, job.dtype)
    config = AnySize(unet_config(job.network, dtype))
    config.set_inference_dtype(dtype, None)
    model = config.get_model({}, device=job.device)
    for name, parameter in model.named_parameters():  # ComfyUI leaves them as memory was
        is_norm = parameter.ndim == 1 and name.endswith("weight")
        torch.nn.init.ones_(parameter) if is_norm else torch.nn.init.normal_(parameter, std=0.02)
    memory = comfy.model_management  # which knows a card by its number
    return comfy.model_patcher.ModelPatcher(model, load_device=memory.get_torch_device(), offload_device=memory.unet_offload_device())


def train(job: Job) -> Reading:
    """Run the node until it was watched for long enough."""
    import comfy.utils
    import comfy_extras.nodes_train

    patcher = random_patcher(job)
    seen: list[int] = []
    patcher.model.diffusion_model.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    side, rows = job.size // 8, job.rows
    latents = [{"samples": torch.randn(1, 4, side, side)} for _ in range(rows)]  # the node dies when they come as one tensor
    text = (1, 77, job.network["cross_attention_dim"])
    prompts = [[[torch.randn(text), {"pooled_output": torch.randn(1, job.pooled)}]] for _ in range(rows)]
    watch = Watch(job.seconds, job.device)
    comfy.utils.set_progress_bar_global_hook(watch)
    with contextlib.suppress(Enough):
        comfy_extras.nodes_train.TrainLoraNode.execute(
            model=[patcher],
            latents=latents,
            positive=prompts,
            batch_size=[1 if job.accumulated else rows],
            grad_accumulation_steps=[rows if job.accumulated else 1],
            steps=[STEPS],
            learning_rate=[5e-4],
            rank=[job.rank],
            optimizer=["AdamW"],
            loss_function=["MSE"],
            seed=[0],
            training_dtype=["bf16"],
            lora_dtype=["bf16"],
            algorithm=["LoRA"],
            gradient_checkpointing=[False],
            existing_lora=["[None]"],
        )
    how = f"{rows} accumulated" if job.accumulated else f"a batch of {rows}, {sum(seen) // len(watch.ends)} rows"
    return watch.reading(f"ComfyUI's TrainLoraNode, {how}", job.size)


def main() -> None:
    """Do the job that came."""
    job = asked()
    sys.path.insert(0, job.folder)
    from comfy.cli_args import args

    args.cpu = job.device.type == "cpu"
    logging.getLogger().setLevel(logging.WARNING)
    answer([train(job)])


if __name__ == "__main__":
    main()
