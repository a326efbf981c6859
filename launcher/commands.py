"""The words of the command line, what can be said against them at once, and the one sentence for whatever stops them.

Standard library only: `--help` and a mistyped word need no environment.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from . import bootstrap, children, hosts, ports
from .errors import LauncherError, sentence_for

Do = Callable[[argparse.Namespace], int]
FORWARDED = {
    "train": "Train: content, style or joint.",
    "repeat": "Train again what a run's own record says.",
    "generate": "Paint with trained adapters.",
    "list": "Name the adapters in files and folders.",
    "inspect": "Say all that an adapter says about itself.",
    "merge": "Put the content of one adapter and the style of another together.",
    "split": "Write the content and the style of an adapter as two LoRAs.",
    "convert": "Write an adapter in another layout or precision.",
    "resize": "Write an adapter with a smaller rank.",
    "studio": "Train many contents and styles by a plan, on many cards, into a library with contact sheets.",
    "runs": "List what is kept of trainings and what it takes; --prune removes the oldest.",
    "bench": "Measure: `bench speed`, `quality`, `precision`, `reliability`, `formats`, `inputs`, `cards`, `studio`; --help says more.",
}
BENCHMARKS = ("speed", "quality", "precision", "reliability", "formats", "inputs", "cards", "studio")


def run(arguments: Sequence[str], do: Do | None = None) -> int:
    """Does what a person asked for and returns the exit status. Whatever stops it becomes one sentence.

    Without `do` this is the first stage: the words are checked and handed over to the second, which is given `do`.
    """
    children.end_politely()
    try:
        options = parse(arguments)
        if do:
            return do(options)
        check(options)
        return bootstrap.hand_over(arguments)
    except LauncherError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        goes_on = arguments[0] in ("demo", "train", "repeat", "studio")
        return _complain("Stopped: the same command goes on from there." if goes_on else "Stopped.", 130)
    except BrokenPipeError:
        sys.stdout = None  # nobody reads any more; Python must not try to flush at its end
        return 141
    except OSError as error:
        return _complain(sentence_for(error))


def _complain(sentence: str, status: int = 1) -> int:
    if sys.stderr is not None:
        sys.stderr.write(f"b4m: {sentence}\n")
    return status


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command and its options; `words` are those that the pack's own commands answer themselves."""
    options, rest = _parser().parse_known_args(_with_help(arguments))
    if options.command in FORWARDED:
        options.words += rest
    elif rest:
        raise LauncherError(
            f"`{options.command}` does not know {' '.join(rest)}: see `python b4m.py {options.command} --help`."
        )
    return options


def check(options: argparse.Namespace) -> None:
    """Says before a long set-up, not after it, what is wrong with the words."""
    if getattr(options, "port", None) is not None:
        ports.choose(options.port)
    if getattr(options, "comfyui", None):
        hosts.check_version(hosts.find(options.comfyui))
    if options.command == "bench" and options.words[:1] not in [[name] for name in BENCHMARKS]:
        raise LauncherError(f"What should be measured? Say {' or '.join(f'`bench {each}`' for each in BENCHMARKS)}.")


def _with_help(arguments: Sequence[str]) -> list[str]:
    """`--help` after one of the pack's own commands is its to answer; without any word there is the general help."""
    if not arguments:
        return ["--help"]
    if arguments[0] in FORWARDED and len(arguments) > 1:
        return [arguments[0], "--", *arguments[1:]]
    return list(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="b4m.py", description="B4M: content and style, trained apart, put together.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, about: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=about, description=about)

    demo = add("demo", "Train on the shipped pictures in a real ComfyUI and paint a contact sheet.")
    comfyui = add("comfyui", "Start a ComfyUI with B4M in it, for playing.")
    test = add("test", "Run every test: lint, types, unit tests, the real server, the real page.")
    for command in (demo, comfyui):
        command.add_argument(
            "--port", type=int, metavar="N", help="listen on this port (otherwise the first free one from 8188 on)"
        )
        command.add_argument("--comfyui", metavar="PATH", help="use the ComfyUI in this folder instead of bringing one")
    demo.add_argument("--keep", action="store_true", help="leave the server running and print its address")
    test.add_argument(
        "--comfyui",
        metavar="PATH",
        help="run what meets a ComfyUI (nodes, server, page) against the one in this folder",
    )
    test.add_argument(
        "--page", metavar="VERSION", help="with this version of ComfyUI's web page (comfyui-frontend-package)"
    )
    test.add_argument("--fast", action="store_true", help="without the real server and the real page")
    test.add_argument("--no-browser", action="store_true", help="without the real page; installs no Chromium")
    for name, about in FORWARDED.items():
        add(name, about).add_argument("words", nargs="*", metavar="arguments")
    return parser
