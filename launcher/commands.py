"""The words of the command line, and who does what they say."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from types import FrameType

from . import demo, environment, hosts, places, server, testing
from .console import say
from .errors import LauncherError, sentence_for
from .hosts import Host

Action = Callable[[argparse.Namespace, list[str]], int]
FORWARDED = {
    "train": "Train: content, style or joint.",
    "generate": "Paint with trained adapters.",
    "bench": "Measure: `bench speed`, `bench quality` or `bench precision`, with --help for more.",
}
BENCHMARKS = ("speed", "quality", "precision")


def run(arguments: Sequence[str]) -> int:
    """Does what a person asked for and returns the exit status. Whatever stops it becomes one sentence."""
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP, the signal of a terminal that was closed
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _end_politely)
    try:
        options, rest = _parser().parse_known_args(_with_help(arguments))
        if rest and not options.forwards:
            raise LauncherError(f"`{options.command}` does not know {' '.join(rest)}: see `python b4m.py {options.command} --help`.")
        status: int = options.action(options, rest)
        return status
    except LauncherError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        goes_on = arguments[0] in ("demo", "train")
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


def _end_politely(number: int, frame: FrameType | None) -> None:
    """A polite kill takes the way of Ctrl-C, so that the server is stopped too."""
    raise KeyboardInterrupt


def _with_help(arguments: Sequence[str]) -> list[str]:
    """`--help` after train, generate or bench is theirs to answer; without any word there is the general help."""
    if not arguments:
        return ["--help"]
    if arguments[0] in FORWARDED and len(arguments) > 1:
        return [arguments[0], "--", *arguments[1:]]
    return list(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="b4m.py", description="B4M: content and style, trained apart, put together.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, action: Action, about: str, *, forwards: bool = False) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=about, description=about)
        command.set_defaults(action=action, forwards=forwards)
        return command

    for command in (
        add("demo", _demo, "Train on the shipped pictures in a real ComfyUI and paint a contact sheet."),
        add("comfyui", _comfyui, "Start a ComfyUI with B4M in it, for playing."),
    ):
        command.add_argument("--comfyui", metavar="PATH", help="use the ComfyUI in this folder instead of bringing one")
        command.add_argument("--port", type=int, metavar="N", help="listen on this port (otherwise the first free one from 8188 on)")
        if command.prog.endswith("demo"):
            command.add_argument("--keep", action="store_true", help="leave the server running and print its address")
    test = add("test", _test, "Run every test: lint, types, unit tests, the real server, the real page.")
    test.add_argument("--fast", action="store_true", help="lint, types and unit tests only")
    for name, about in FORWARDED.items():
        command = add(name, _forward, about, forwards=True)
        command.add_argument("arguments", nargs="*")
    return parser


def host_for(path: str | None) -> Host:
    """The ComfyUI to use, with everything installed that it and the pack need."""
    own_python = hosts.interpreter_near(path) if path else None
    python = own_python or environment.prepare_python()
    host = hosts.existing(path, python) if path else hosts.bring(hosts.NEWEST, python)
    if not own_python:
        environment.install(host.requirements())
    return host


def _demo(options: argparse.Namespace, _: list[str]) -> int:
    if options.port is not None:
        server.choose_port(options.port)  # before a long set-up, not after it
    demo.run(host_for(options.comfyui), port=options.port, keep=options.keep)
    return 0


def _comfyui(options: argparse.Namespace, _: list[str]) -> int:
    port = server.choose_port(options.port)
    host = host_for(options.comfyui)
    base = places.workspace() if host.ours else None
    hosts.say_which(host, linked=not host.ours)
    with server.running(host, port=port, base=base) as running:
        if running.why_pack_failed():
            say(f"B4M itself could not be loaded: {running.why_pack_failed()}.")
        say(f"ComfyUI with B4M is at {running.address} (log {running.log}); Ctrl-C ends it.")
        running.process.wait()
        raise LauncherError(f"ComfyUI ended by itself: {running.last_words()}; the whole log is {running.log}.")


def _test(options: argparse.Namespace, _: list[str]) -> int:
    return testing.run(fast=options.fast)


def _forward(options: argparse.Namespace, rest: list[str]) -> int:
    """Runs one of the pack's own modules in the environment, with all arguments as they are, in the folder one is in."""
    module = _module(options.command, [*options.arguments, *rest])  # before a long set-up, not after it
    python = environment.prepare_python()
    host = hosts.bring(hosts.NEWEST, python)  # one environment serves every command, so that none of them undoes another's
    environment.install(host.requirements(), development=options.command == "bench")
    variables = places.child_environment(PYTHONPATH=str(places.PACK), B4M_TOKENIZER=str(host.folder / "comfy" / "sd1_tokenizer"))
    return subprocess.call([str(python), "-m", *module], env=variables)


def _module(command: str, words: Sequence[str]) -> list[str]:
    """The module for a command, and its words."""
    if command != "bench":
        return ["b4m_core.commandline", command, *words]
    if not words or words[0] not in BENCHMARKS:
        raise LauncherError(f"What should be measured? Say {' or '.join(f'`bench {each}`' for each in BENCHMARKS)}.")
    return [f"benchmarks.{words[0]}", *words[1:]]
