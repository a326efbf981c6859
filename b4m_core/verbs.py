"""``list``, ``inspect``, ``merge``, ``split``, ``convert``, ``resize``: adapters on the command line, without a model.

They write what the nodes write, byte for byte.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from .adapter import Adapter
from .apart import apart, apart_note, apart_paths
from .block_weights import ATTENTION_BLOCKS, BlockWeights
from .cards import activation_text
from .compact_format import COMPACT_ENDING
from .compose import Share, base_note, merge, sum_note, with_detail
from .errors import B4MError
from .files import load_adapter, read_facts, save_adapter, save_in_layout
from .foreign import USES
from .layouts import FOLDER_LAYOUTS, KOHYA
from .learned_words import shared_words_note, without_words
from .metadata import FILE_DTYPES
from .record import record_of_adapter
from .resize import resized
from .saving import LORA_ENDING, ending_of, rank_note, require_ending
from .side_files import write_beside
from .toml_files import toml_text

COMPACT = "compact"
SHARES = ("content", "style", "detail")
Commands = Any
"""argparse's collection of commands, whose type has no public name."""


def add(commands: Commands) -> None:
    """Add the verbs to the command line."""
    _verb(commands, "list", _list, "name the adapters in files and folders").add_argument(
        "paths", nargs="+", type=Path, metavar="file or folder"
    )
    inspected = _verb(commands, "inspect", _inspect, "say all that an adapter says about itself")
    _any(inspected)
    inspected.add_argument("--toml", action="store_true", help="say how it was trained, as a file for train --config")
    merged = _verb(commands, "merge", _merge, "the content of one adapter with the style of another")
    merged.add_argument("--content", type=Path, required=True, help="the adapter whose content is taken")
    merged.add_argument("--style", type=Path, required=True, help="the adapter whose style is taken")
    merged.add_argument("--detail", type=Path, action="append", default=[], help="all of a further adapter; any number of them")
    for name in SHARES:
        merged.add_argument(f"--{name}-strength", type=float, default=1.0, help=f"how much of the {name} goes in, for good")
        merged.add_argument(f"--{name}-blocks", default="", help=f"a factor for each block: {', '.join(ATTENTION_BLOCKS)}")
    _out(merged)
    split = _verb(commands, "split", _split, "the content and the style of an adapter as two LoRAs")
    _any(split)
    split.add_argument("--out", type=Path, help="two files are named after this one (default: after the adapter)")
    converted = _verb(commands, "convert", _convert, "the same adapter in another layout or precision")
    _any(converted)
    converted.add_argument("--to", choices=(KOHYA, *FOLDER_LAYOUTS, COMPACT), default=KOHYA, help="diffusers and peft are folders")
    converted.add_argument("--dtype", choices=FILE_DTYPES, help="precision of the file (default: the adapter's)")
    _out(converted)
    smaller = _verb(commands, "resize", _resize, "a smaller rank, and how far that is off")
    _any(smaller)
    smaller.add_argument("--rank", type=int, required=True, help="the rank of the content, and of the style")
    _out(smaller)


def _verb(commands: Commands, name: str, run: Callable[[argparse.Namespace], None], about: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=about, description=about)
    parser.set_defaults(run=run)
    return parser


def _any(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapter", type=Path, help="one of B4M's, or any LoRA for SDXL")
    parser.add_argument("--use-as", choices=USES, default=USES[0], help="what another tool's LoRA is taken for")


def _out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="what to write")


def save(adapter: Adapter, path: Path) -> None:
    """Write an adapter and what lies beside it, and print its path. Raises :class:`B4MError` for an ending that other
    tools do not look for.
    """
    require_ending(path, ending_of(adapter))
    save_adapter(adapter, path)
    write_beside(adapter, path, new_picture=True)
    print(path)


def note(*sentences: Iterable[str]) -> None:
    """What a person should know, beside the paths on standard output."""
    for sentence in (each for some in sentences for each in some):
        print(f"note: {sentence}", file=sys.stderr)


def _list(options: argparse.Namespace) -> None:
    for file in _files(options.paths):
        try:
            facts = read_facts(file)
            print(f"{file}  {facts.role}, {activation_text(facts) or '-'}, rank {facts.rank}, {facts.base_name or 'unknown model'}")
        except B4MError as error:
            print(f"{file}  {error}")


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    """The files named, and those in the folders named, sorted."""
    for path in paths:
        if not path.exists():
            raise B4MError(f"{path} is not there: name a file or a folder.")
        within = (file for ending in (LORA_ENDING, COMPACT_ENDING) for file in path.rglob(f"*{ending}"))
        yield from sorted(within) if path.is_dir() else [path]


def loaded(path: Path, use_as: str) -> Adapter:
    """The adapter of a file, anybody's, with what is to be said about it."""
    adapter = load_adapter(path, use_as)
    note(f"{path.name}: {sentence}" for sentence in adapter.notes)
    return adapter


def _inspect(options: argparse.Namespace) -> None:
    adapter = loaded(options.adapter, options.use_as)
    if options.toml:
        return print(toml_text(record_of_adapter(adapter.facts)), end="")
    print(adapter.summary())
    print(f"file: {adapter.facts.form}, {adapter.facts.file_dtype}, {len(adapter.layers)} layers")


def _merge(options: argparse.Namespace) -> None:
    content, style = loaded(options.content, "content"), loaded(options.style, "style")
    shares = {name: Share(getattr(options, f"{name}_strength"), BlockWeights.parsed(getattr(options, f"{name}_blocks"))) for name in SHARES}
    note([*base_note(style, content.facts.base, content.facts.base_name), *sum_note(content, style), *shared_words_note(content, style)])
    merged = merge(content, style, content_share=shares["content"], style_share=shares["style"])
    for path in options.detail:
        merged = with_detail(merged, loaded(path, "content"), shares["detail"])
    save(merged, options.out)


def _split(options: argparse.Namespace) -> None:
    adapter = loaded(options.adapter, options.use_as)
    paths = apart_paths(options.out or options.adapter)
    for concept, one in apart(adapter).items():
        save(one, paths[concept])
    note([apart_note(adapter)])


def _convert(options: argparse.Namespace) -> None:
    adapter = loaded(options.adapter, options.use_as)
    if options.dtype is not None:
        adapter = adapter.with_facts(file_dtype=options.dtype).rounded()
    if options.to == COMPACT:
        save(adapter.compacted(), options.out)
    elif options.to == KOHYA:
        save(adapter.with_facts(compact=False, file_format=""), options.out)
    else:
        adapter, left_out = without_words(adapter)
        note(left_out)
        save_in_layout(adapter, options.out, options.to)
        print(options.out)


def _resize(options: argparse.Namespace) -> None:
    adapter, error = resized(loaded(options.adapter, options.use_as), options.rank)
    note([rank_note(adapter, error)])
    save(adapter, options.out)
