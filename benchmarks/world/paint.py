"""Paint with a saved model through diffusers' StableDiffusionXLPipeline, as anyone would, and say how long it took:

python -m benchmarks.world.paint MODEL_FOLDER TOKENIZER_FOLDER "a car in the snow in watercolor style" out.png

TOKENIZER_FOLDER holds CLIP's vocab.json and merges.txt (a ComfyUI has them under comfy/sd1_tokenizer). Needs no world, no GPU.
"""

import argparse
import pathlib
import time

import torch
from diffusers import AutoencoderTiny, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors import safe_open
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer


def text_encoder(folder: pathlib.Path, kind: type[torch.nn.Module]) -> torch.nn.Module:
    """A CLIP text model from its compact file: the world's tokens have stored rows, every other is fixed noise."""
    model = kind(CLIPTextConfig.from_json_file(folder / "config.json")).eval()
    with safe_open(folder / "compact.safetensors", "pt") as file:
        weights = {key: file.get_tensor(key).float() for key in file.keys() if not key.startswith("known_")}
        ids, rows = file.get_tensor("known_token_ids").long(), file.get_tensor("known_token_rows").float()
    table = 0.1 * torch.randn(49408, rows.shape[1], generator=torch.Generator().manual_seed(0))
    table[ids] = rows
    weights[next(key for key in model.state_dict() if key.endswith("token_embedding.weight"))] = table
    model.load_state_dict(weights)
    return model


def load_pipeline(model: pathlib.Path, tokenizer: pathlib.Path) -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline(
        vae=AutoencoderTiny.from_pretrained(model / "vae", torch_dtype=torch.float32),
        unet=UNet2DConditionModel.from_pretrained(model / "unet", torch_dtype=torch.float32),
        text_encoder=text_encoder(model / "text_encoder", CLIPTextModel),
        text_encoder_2=text_encoder(model / "text_encoder_2", CLIPTextModelWithProjection),
        tokenizer=CLIPTokenizer.from_pretrained(tokenizer, model_max_length=77, pad_token="<|endoftext|>"),
        tokenizer_2=CLIPTokenizer.from_pretrained(tokenizer, model_max_length=77, pad_token="!"),
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="linspace"),
        force_zeros_for_empty_prompt=False,  # trained with the empty prompt's own embedding
        add_watermarker=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("tokenizer", type=pathlib.Path)
    parser.add_argument("prompt")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--pictures", type=int, default=1, help="painted side by side in one batch")
    args = parser.parse_args()
    pipeline = load_pipeline(args.model, args.tokenizer)
    size = pipeline.unet.config.sample_size * 8
    start = time.perf_counter()
    images = pipeline(
        args.prompt,
        width=size,
        height=size,
        num_inference_steps=args.steps,
        guidance_scale=args.guidance,
        num_images_per_prompt=args.pictures,
        generator=torch.Generator().manual_seed(args.seed),
        output_type="pt",
    ).images
    seconds = time.perf_counter() - start
    strip = (torch.cat(list(images), -1) * 255).round().byte().permute(1, 2, 0).numpy()
    pipeline.image_processor.numpy_to_pil(strip[None] / 255)[0].save(args.out)
    print(f"{args.pictures} picture(s) of {size} px in {seconds:.1f} s ({torch.get_num_threads()} threads)")


if __name__ == "__main__":
    main()
