"""The words of the command line and what each means; what they do is commandline.py's."""

import argparse
import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from . import verbs
from .captions import PATTERNS
from .configuration import TRAININGS
from .embedded import embedded_model
from .foreign import USES
from .keeping import KEEP_EVERY
from .settings import TrainingSettings
from .studio import command as studio

OTHERS = {"content": "in other styles", "style": "of other contents"}  # what stands beside the pictures of each
ABOUT = "B4M without a graph: train adapters, paint with them, work on them. The same loop and the same files as the nodes."
Command = Callable[[argparse.Namespace], None]


def parser(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """The whole command line; ``commands`` are what "train", "repeat", "runs" and "generate" do."""
    whole = argparse.ArgumentParser(prog="b4m", description=ABOUT)
    words = whole.add_subparsers(required=True, metavar="command")
    _training(words, commands["train"])
    again = words.add_parser("repeat", help="train again what a record says, to the same bytes")
    again.set_defaults(run=commands["repeat"])
    again.add_argument("record", type=Path, help="a run's folder, or its run.toml")
    again.add_argument("words", nargs=argparse.REMAINDER, metavar="...", help="options of train, which win over the record")
    verbs.add(words)
    studio.add(words)
    keeper = words.add_parser("runs", help="what the run store holds, and how much it takes")
    keeper.set_defaults(run=commands["runs"])
    _store_argument(keeper)
    keeper.add_argument(
        "--prune", type=float, nargs="?", const=-1.0, metavar="GB", help="remove what was not used for longest, down to so much"
    )
    keeper.add_argument("--log", metavar="RUN", help="print what a run logged, a line of JSON for every step")
    _painting(words, commands["generate"])
    return whole


def _training(words: Any, run: Command) -> None:
    trainer = words.add_parser("train", help="train an adapter")
    roles = trainer.add_subparsers(required=True, metavar="content|style|joint")
    for role in TRAININGS:
        sub = roles.add_parser(role)
        sub.set_defaults(run=run, role=role, parser=sub, was=None)
        sub.add_argument("--config", type=Path, metavar="FILE", help="a TOML file of options, such as a run's; options win over it")
        sub.add_argument("--print-config", action="store_true", help="print these options as TOML, and train nothing")
        _model_arguments(sub)
        sub.add_argument("--out", type=Path, help="the file to write, name.safetensors")
        _store_argument(sub)
        sub.add_argument(
            "--compact",
            action=argparse.BooleanOptionalAction,
            default=False,
            help="write only what was taught: small, for B4M alone; ends in .b4m",
        )
        how = sub.add_mutually_exclusive_group()
        how.add_argument("--retrain", action="store_true", help="start anew even if this training was done before")
        how.add_argument("--take", action="store_true", help="write what is trained by now, up to --steps; train nothing")
        sub.add_argument("--keep-every", type=int, default=KEEP_EVERY, help="keep the adapter every so many steps; 0: never")
        sub.add_argument("--sample-every", type=int, default=0, help="paint with what is learned every so many steps; 0: never")
        sub.add_argument("--sample-prompt", default="", help="what the samples show (default: the first caption)")
        sub.add_argument("--tensorboard", type=Path, metavar="FOLDER", help="show losses and samples in TensorBoard, if it is installed")
        _setting_arguments(sub)
        if role == "joint":
            _joint_arguments(sub)
        else:
            _picture_arguments(sub, "", PATTERNS[role])
            _auxiliary_arguments(sub, {"": OTHERS[role]})


def _painting(words: Any, run: Command) -> None:
    generator = words.add_parser("generate", help="paint a picture with an adapter")
    generator.set_defaults(run=run)
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


def _store_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--store", type=Path, default=Path(".b4m/store"), help="where runs are kept; ComfyUI's are in its folder user/b4m"
    )


def _model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        type=Path,
        default=embedded_model(),
        help="an SDXL checkpoint, or a folder in diffusers' layout (default: the embedded model)",
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
        if isinstance(field.default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=field.default)
        else:
            parser.add_argument(
                flag, type=type(field.default), default=None if field.name == "resolution" else field.default
            )


def _picture_arguments(parser: argparse.ArgumentParser, prefix: str, pattern: str) -> None:
    parser.add_argument(f"--{prefix}pictures", type=Path, help="a folder of pictures")
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
    parser.add_argument(
        f"--{prefix}masks",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="train only inside the masks: name_mask.png, transparency",
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
    _picture_arguments(parser, "content-", PATTERNS["content"])
    _picture_arguments(parser, "style-", PATTERNS["style"])
    _auxiliary_arguments(parser, {f"{role}-": others for role, others in OTHERS.items()})
    parser.add_argument("--content-adapter", type=Path)
    parser.add_argument("--style-adapter", type=Path)
