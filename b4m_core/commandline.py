"""B4M without a graph, for scripts: ``python b4m.py train content ...``, ``python b4m.py generate ...``, and the verbs
for adapters (verbs.py).

The same loop, the same settings and the same files as the nodes.
"""

import argparse
import dataclasses
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from PIL import Image

from . import verbs
from .adapter import Adapter
from .auxiliary import own_auxiliary, sample_auxiliary
from .caption_notes import plain_text_note
from .carried import Carried, in_words
from .checkpoint_file import CheckpointFile
from .compact_format import COMPACT_ENDING
from .compose import base_note, merge, sum_note
from .concepts import check_apart, check_together
from .diffusers_folder import DiffusersFolder
from .errors import B4MError
from .foreign import USES
from .keeping import KEEP_EVERY
from .pictures import PictureSet, load_folder
from .plan import Plan
from .remarks import enlarged
from .run_store import RunStore
from .runs import Run
from .saving import LORA_ENDING, require_ending
from .set_words import fill_prompt, words_of
from .settings import TrainingSettings
from .training import Progress, take, train

CONTENT_PATTERN, STYLE_PATTERN = "a photo of a {trigger} {class}", "a {class} in {trigger} style"
OTHERS = {"content": "in other styles", "style": "of other contents"}  # what stands beside the pictures of each


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a :class:`B4MError` becomes its sentence and exit code 1."""
    options = _parser().parse_args(arguments)
    transformers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.disable_progress_bar()
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity(logging.CRITICAL)  # what they find wrong is said in a sentence of ours
    logging.basicConfig(format="%(message)s")
    logging.getLogger("b4m").setLevel(logging.INFO)
    try:
        options.run(options)
    except B4MError as error:
        print(f"b4m: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"b4m: {error.filename or 'a file'} could not be read or written ({error.strerror or error}).",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("b4m: stopped; what was trained is kept, the same command goes on from there.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="b4m.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    trainer = commands.add_parser("train", help="train an adapter")
    roles = trainer.add_subparsers(required=True, metavar="content|style|joint")
    for role, run in (("content", _train_one), ("style", _train_one), ("joint", _train_together)):
        sub = roles.add_parser(role)
        sub.set_defaults(run=run, role=role)
        _model_arguments(sub)
        sub.add_argument("--out", type=Path, required=True, help="the file to write, name.safetensors")
        _store_argument(sub)
        sub.add_argument(
            "--compact", action="store_true", help="write only what was taught: small, for B4M alone; ends in .b4m"
        )
        how = sub.add_mutually_exclusive_group()
        how.add_argument("--retrain", action="store_true", help="start anew even if this training was done before")
        how.add_argument("--take", action="store_true", help="write what is trained by now, up to --steps; train nothing")
        sub.add_argument("--keep-every", type=int, default=KEEP_EVERY, help="keep the adapter every so many steps; 0: never")
        _setting_arguments(sub)
        if role == "joint":
            _joint_arguments(sub)
        else:
            _picture_arguments(sub, "", CONTENT_PATTERN if role == "content" else STYLE_PATTERN)
            _auxiliary_arguments(sub, {"": OTHERS[role]})
    verbs.add(commands)
    keeper = commands.add_parser("runs", help="what the run store holds, and how much it takes")
    keeper.set_defaults(run=_runs)
    _store_argument(keeper)
    keeper.add_argument(
        "--prune", type=float, nargs="?", const=-1.0, metavar="GB", help="remove what was not used for longest, down to so much"
    )
    generator = commands.add_parser("generate", help="paint a picture with an adapter")
    generator.set_defaults(run=_generate)
    _model_arguments(generator)
    generator.add_argument("prompt")
    generator.add_argument(
        "--adapter",
        type=Path,
        action="append",
        default=[],
        help="a B4M adapter or any LoRA for SDXL, any number of them; without one the base model paints",
    )
    generator.add_argument(
        "--use-as", choices=USES, action="append", help="what another tool's LoRA is taken for: whose slider it has"
    )
    for slider in ("content", "style", "detail"):
        generator.add_argument(f"--{slider}", type=float, action="append", help="once for all adapters, or once for each")
    generator.add_argument("--seed", type=int, default=0)
    generator.add_argument("--size", type=int, help="side in pixels; the model's own by default")
    generator.add_argument("--out", type=Path, required=True)
    return parser


def _store_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--store", type=Path, default=Path(".b4m/store"), help="where runs are kept; ComfyUI's are in its folder user/b4m"
    )


def _model_arguments(parser: argparse.ArgumentParser) -> None:
    embedded = Path(__file__).resolve().parents[1] / "mini"
    parser.add_argument(
        "--model", type=Path, default=embedded, help="an SDXL checkpoint, or a folder in diffusers' layout (default: the embedded model)"
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        default=os.environ.get("B4M_TOKENIZER"),
        help="a folder with CLIP's tokenizer.json, or its vocab.json and merges.txt, if the model has none",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="bfloat16" if torch.cuda.is_available() else "float32"
    )


def _setting_arguments(parser: argparse.ArgumentParser) -> None:
    for field in dataclasses.fields(TrainingSettings):
        flag = "--" + field.name.replace("_", "-")
        if field.type is bool or field.type == "bool":
            parser.add_argument(flag, action="store_true")
        else:
            parser.add_argument(
                flag, type=type(field.default), default=None if field.name == "resolution" else field.default
            )


def _picture_arguments(parser: argparse.ArgumentParser, prefix: str, pattern: str) -> None:
    parser.add_argument(f"--{prefix}pictures", type=Path, required=True, help="a folder of pictures")
    parser.add_argument(f"--{prefix}trigger", default="", help="the new word")
    parser.add_argument(
        f"--{prefix}class",
        dest=f"{prefix}class_word".replace("-", "_"),
        default="",
        help="what it is: penguin, house ...",
    )
    parser.add_argument(
        f"--{prefix}caption",
        default=pattern,
        help="used where there is no .txt; {trigger}, {class} and {name} are filled in",
    )


def _auxiliary_arguments(parser: argparse.ArgumentParser, shown: Mapping[str, str]) -> None:
    """``shown``: what the pictures of each prefix show."""
    for prefix, others in shown.items():
        parser.add_argument(
            f"--{prefix}auxiliary", type=Path, help=f"a folder of your own pictures {others}, one subfolder for each"
        )
    parser.add_argument(
        "--auxiliary-sets", type=int, default=4, help="how many auxiliary sets the base model paints; 0 for none"
    )
    parser.add_argument("--auxiliary-pictures", type=int, default=4, help="how many pictures it paints for each")


def _joint_arguments(parser: argparse.ArgumentParser) -> None:
    _picture_arguments(parser, "content-", CONTENT_PATTERN)
    _picture_arguments(parser, "style-", STYLE_PATTERN)
    _auxiliary_arguments(parser, {f"{role}-": others for role, others in OTHERS.items()})
    parser.add_argument("--content-adapter", type=Path, required=True)
    parser.add_argument("--style-adapter", type=Path, required=True)


def _base(options: argparse.Namespace) -> DiffusersFolder:
    kind = CheckpointFile if options.model.is_file() else DiffusersFolder
    return kind(
        options.model, tokenizer=options.tokenizer, device=options.device, dtype=getattr(torch, options.dtype)
    )


def _settings(options: argparse.Namespace, base: DiffusersFolder) -> TrainingSettings:
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(TrainingSettings)}
    if values["resolution"] is None:
        values["resolution"] = base.native_size
    return TrainingSettings(**values)


def _pictures(options: argparse.Namespace, prefix: str) -> PictureSet:
    trigger, class_word, pattern = (getattr(options, prefix + name) for name in ("trigger", "class_word", "caption"))
    pictures = load_folder(
        getattr(options, prefix + "pictures"), trigger=trigger, class_word=class_word, pattern=pattern
    )
    verbs.note(pictures.notes, plain_text_note(pictures.prompts()))
    return pictures


def _auxiliary(
    options: argparse.Namespace, base: DiffusersFolder, role: str, folder: Path | None, side: int
) -> tuple[PictureSet, ...]:
    """What stands beside the pictures of ``role``: the artist's own in ``folder``, or else painted ones of ``side``
    pixels.
    """
    kind = "styles" if role == "content" else "contents"
    if folder is not None:
        return own_auxiliary(folder, kind)
    sets, pictures = options.auxiliary_sets, options.auxiliary_pictures
    return sample_auxiliary(base, kind, sets=sets, pictures=pictures, resolution=side, cache=options.store)


def _train_one(options: argparse.Namespace) -> None:
    _require_ending(options)
    base = _base(options)
    settings = _settings(options, base)
    pictures = _pictures(options, "")  # what is wrong with them is said before anything is painted
    others = _auxiliary(options, base, options.role, options.auxiliary, settings.resolution)
    verbs.note(check_apart(options.role, pictures, others, settings.correspondence), enlarged(pictures.pictures, settings.resolution))
    _run(Plan(options.role, pictures, others, settings), base, options)


def _require_ending(options: argparse.Namespace) -> None:
    """What is wrong with the name is said before anything is trained."""
    require_ending(options.out, COMPACT_ENDING if options.compact else LORA_ENDING)


def _train_together(options: argparse.Namespace) -> None:
    _require_ending(options)
    base = _base(options)
    content, style = (verbs.loaded(getattr(options, f"{role}_adapter"), role) for role in ("content", "style"))
    start = merge(content, style)
    _say_other_base(base, content, style)
    worn = [f"worn during the training, and not trained: {in_words(start.carried)}."] if start.carried else []
    verbs.note(sum_note(content, style), worn)
    base.wear(start.carried, {})
    settings = dataclasses.replace(_settings(options, base), **start.facts.common())
    pictures, drawn = _pictures(options, "content_"), _pictures(options, "style_")
    taught = content.facts.content, style.facts.style
    verbs.note(check_together(pictures, drawn, taught, (), ()))
    beside: list[tuple[PictureSet, ...]] = []
    for role, folder in (("content", options.content_auxiliary), ("style", options.style_auxiliary)):
        # as published there are none, so none are painted
        wanted = settings.correspondence == "output_preservation" or folder is not None
        beside.append(_auxiliary(options, base, role, folder, settings.resolution) if wanted else ())
    check_together(pictures, drawn, taught, *beside)
    plan = Plan("together", pictures, (drawn, *beside[0], *beside[1]), settings, start)
    _run(plan, base, options, start.carried)


def _run(plan: Plan, base: DiffusersFolder, options: argparse.Namespace, carried: Sequence[Carried] = ()) -> None:
    store = RunStore(options.store)
    if options.take:
        adapter = take(plan, base, store, tell=_print_note)
    else:
        if options.keep_every < 0:
            raise B4MError(f"--keep-every is {options.keep_every}: it must be at least 0.")
        adapter = train(
            plan, base, store, _print_progress, retrain=options.retrain, keep_every=options.keep_every, tell=_print_note
        )
    adapter = adapter.carrying(carried)
    verbs.save(adapter.compacted() if options.compact else adapter, options.out)


def _runs(options: argparse.Namespace) -> None:
    store = RunStore(options.store)
    if options.prune is not None:
        if options.prune != -1 and not 0 <= options.prune < 1e9:
            raise B4MError(f"--prune is {options.prune:g}: say how many GB may stay, such as 5.")
        removed = store.prune(store.most_bytes if options.prune == -1 else int(options.prune * 1e9))
        print(f"{removed.entries} removed, {removed.bytes / 1e6:.0f} MB freed")
    entries = store.entries()
    for entry in reversed(entries):
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        steps = f"step {Run(entry.path).reach()}" if entry.path.is_dir() else "painted picture"
        print(f"{entry.path.name}  {used}  {entry.bytes / 1e6:8.1f} MB  {steps}")
    total = sum(entry.bytes for entry in entries)
    print(f"{store.root}: {total / 1e6:.0f} MB of at most {store.most_bytes / 1e9:g} GB")


def _print_note(sentence: str) -> None:
    verbs.note([sentence])


def _print_progress(progress: Progress) -> None:
    if progress.step_done and (progress.step % 10 == 0 or progress.step == progress.total):
        _, trained, others = progress.losses[-1]
        left = "" if progress.seconds_left is None else f", {progress.seconds_left:.0f} s left"
        print(
            f"step {progress.step} of {progress.total}: loss {trained:.4f}, others {others:.4f}{left}", file=sys.stderr
        )


def _say_other_base(base: DiffusersFolder, *adapters: Adapter) -> None:
    for adapter in adapters:
        verbs.note(base_note(adapter, base.network_fingerprint, base.name))


def _generate(options: argparse.Namespace) -> None:
    if options.out.suffix.lower() not in Image.registered_extensions():
        raise B4MError(
            f"{options.out.name} has no ending that says which kind of picture it is: use .png, for example."
        )
    base = _base(options)
    size = options.size or base.native_size
    if size < 32 or size % 32:
        raise B4MError(f"--size is {size}: choose a multiple of 32.")
    uses = _for_each("--use-as", options.use_as or [USES[0]], options.adapter)
    sliders = [
        _for_each(f"--{name}", getattr(options, name) or [1.0], options.adapter) for name in ("content", "style", "detail")
    ]
    prompt = options.prompt
    for path, use_as, *strengths in zip(options.adapter, uses, *sliders, strict=True):
        adapter = verbs.loaded(path, use_as)
        _say_other_base(base, adapter)
        base.with_adapter(adapter, *strengths)
        prompt = fill_prompt(prompt, words_of(adapter.facts.content, adapter.facts.style), "the prompt")
    pixels = base.sample(prompt, width=size, height=size, seed=options.seed)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pixels.clamp(0, 1) * 255).round().byte().numpy()).save(options.out)
    print(options.out)


def _for_each(option: str, values: list[Any], adapters: Sequence[Path]) -> list[Any]:
    """One value for each adapter; a single one counts for all."""
    if len(values) not in (1, len(adapters)):
        raise B4MError(f"{option} is there {len(values)} times for {len(adapters)} adapters: give it once, or once for each.")
    return values if len(values) == len(adapters) else values * len(adapters)


if __name__ == "__main__":
    sys.exit(main())
