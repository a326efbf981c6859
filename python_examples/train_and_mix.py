"""Train a content and a style apart, merge them without training, paint them together, and save one LoRA.

    python python_examples/train_and_mix.py --tokenizer ComfyUI/comfy/sd1_tokenizer

trains on the pictures of the demo and on the small model that comes with B4M: five minutes on two idle cores. With an
SDXL of your own, whose folder has its tokenizer:

    python python_examples/train_and_mix.py --model sdxl/ --content cat/ --trigger snq --class-word cat --style ink/ \
        --steps 500 --size 768

The same inputs again train nothing: every training is kept below --out.
"""

import argparse
from pathlib import Path

from b4m_core import (
    Adapter,
    BaseModel,
    Plan,
    Progress,
    RunStore,
    TrainingSettings,
    as_image,
    load_folder,
    load_model,
    merge,
    paint,
    sample_auxiliary,
    save_adapter,
    strength_table,
    train,
)

PICTURES = Path(__file__).resolve().parents[1] / "workflows" / "pictures"


def main() -> None:
    options = parsed()
    base = load_model(options.model, tokenizer=options.tokenizer, steps=options.sampler_steps)
    size = options.size or base.native_size
    settings = TrainingSettings(
        steps=options.steps, rank=16, learning_rate=1e-3, batch_size=options.batch_size, gradient_accumulation_steps=1, resolution=size
    )
    content = learned(
        "content", base, options, settings, options.content, options.trigger, options.class_word, "a photo of a {trigger} {class}"
    )
    style = learned("style", base, options, settings, options.style, "w@z", "", "a picture in {trigger} style")

    both = merge(content, style)  # the exact sum of the two: nothing is trained
    written = save_adapter(both, options.out / "both.safetensors")
    print(f"an ordinary SDXL LoRA for ComfyUI, diffusers and others: {written}")

    prompt = "a {content} on the beach in {style}"
    as_image(paint(base, prompt, both, content=0.9, style=1.1, size=size, seed=1)).save(options.out / "both.png")
    table = strength_table(base, prompt, both, contents=(0.0, 1.0), styles=(0.0, 1.0), size=size, seed=1)
    as_image(table).save(options.out / "strengths.png")
    print(f"painted: {options.out / 'both.png'}, {options.out / 'strengths.png'} (content grows downwards, style to the right)")


def learned(
    role: str,
    base: BaseModel,
    options: argparse.Namespace,
    settings: TrainingSettings,
    folder: Path,
    trigger: str,
    class_word: str,
    pattern: str,
) -> Adapter:
    """One of the two trainings. The auxiliary pictures, painted by the model itself, keep it as it is elsewhere."""
    pictures = load_folder(folder, trigger=trigger, class_word=class_word, pattern=pattern)
    others = "styles" if role == "content" else "contents"
    beside = sample_auxiliary(
        base, others, sets=options.auxiliary, pictures=1, resolution=settings.resolution, cache=options.out / "runs"
    )
    plan = Plan(role, pictures, beside, settings)

    def watch(progress: Progress) -> None:
        if progress.step_done and (progress.step % 10 == 0 or progress.step == progress.total):
            print(f"{role}: step {progress.step} of {progress.total}, loss {progress.losses[-1][1]:.4f}", flush=True)

    adapter = train(plan, base, RunStore(options.out / "runs"), watch, tell=print)
    save_adapter(adapter, options.out / f"{role}.safetensors")
    return adapter


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="an SDXL checkpoint or folder (default: the small model)")
    parser.add_argument("--tokenizer", type=Path, help="a folder with CLIP's tokenizer, for a model without one")
    parser.add_argument("--content", type=Path, default=PICTURES / "demo_content", help="pictures of a subject")
    parser.add_argument("--trigger", default="snq")
    parser.add_argument("--class-word", default="bird")
    parser.add_argument("--style", type=Path, default=PICTURES / "demo_style", help="pictures in a style")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=3)
    parser.add_argument("--auxiliary", type=int, default=4, help="how many auxiliary pictures are painted for each training")
    parser.add_argument("--sampler-steps", type=int, default=20)
    parser.add_argument("--size", type=int, help="side in pixels (default: the model's own)")
    parser.add_argument("--out", type=Path, default=Path("b4m_example"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
