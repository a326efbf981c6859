"""The second stage: what each command does, with the launcher's libraries at hand."""

from __future__ import annotations

import argparse

from . import children, demo, hosts, places, ports, preparing, server, testing
from .console import say
from .errors import LauncherError


def do(options: argparse.Namespace) -> int:
    """Does what the options of one command say and returns the exit status."""
    if options.command == "test":
        return testing.run(options)
    if options.command == "demo":
        demo.run(preparing.host_for(options.comfyui), port=options.port, keep=options.keep)
        return 0
    return _comfyui(options) if options.command == "comfyui" else _forward(options)


def _comfyui(options: argparse.Namespace) -> int:
    port = ports.choose(options.port)
    host = preparing.host_for(options.comfyui)
    base = places.workspace() if host.ours else None
    hosts.say_which(host, linked=not host.ours)
    with server.running(host, port=port, base=base) as running:
        if running.why_pack_failed():
            say(f"B4M itself could not be loaded: {running.why_pack_failed()}.")
        say(f"ComfyUI with B4M is at {running.address} (log {running.log}); Ctrl-C ends it.")
        running.process.wait()
        raise LauncherError(f"ComfyUI ended by itself: {running.last_words()}; the whole log is {running.log}.")


def _forward(options: argparse.Namespace) -> int:
    """Runs one of the pack's own modules in the environment, with all words as they are, in the folder one is in."""
    studio = options.command == "studio" or options.words[:1] == ["studio"]
    host = preparing.our_host(development=options.command == "bench", studio=studio)
    variables = places.child_environment(PYTHONPATH=str(places.PACK), B4M_TOKENIZER=str(host.folder / "comfy" / "sd1_tokenizer"))
    return children.call([str(host.python), "-m", *_module(options)], variables)


def _module(options: argparse.Namespace) -> list[str]:
    """The module for a command, and its words."""
    if options.command == "bench":
        return [f"benchmarks.{options.words[0]}", *options.words[1:]]
    return ["b4m_core.commandline", options.command, *options.words]
