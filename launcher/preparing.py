"""A ComfyUI that is ready to run: found or brought, with a Python that has what it and the pack need."""

from __future__ import annotations

from . import carriers, environment, hosts
from .console import say
from .hosts import Host


def our_host(*, development: bool = False, studio: bool = False) -> Host:
    """The ComfyUI that we bring, in the environment that serves every command, so that none of them undoes another's."""
    chosen = environment.ours()
    host = carriers.bring(carriers.NEWEST, chosen.prepare())
    chosen.install(host.requirements(), development=development, studio=studio)
    return host


def host_for(path: str | None, *, development: bool = False) -> Host:
    """The ComfyUI that a person names, or ours.

    It runs with its own Python where there is one near. That one is somebody else's, so nothing is installed into it: lacking
    what the pack needs it is a LauncherError that says how to install it; lacking what tests need (`development`) those run
    in an environment made for it.
    """
    if not path:
        return our_host(development=development)
    folder = hosts.find(path)
    version = hosts.check_version(folder)
    own = hosts.interpreter_near(folder)
    if own and not development:
        hosts.check_packages(own, environment.pack_needs())
    if own and development and (missing := hosts.missing_packages(own, environment.pack_needs() + environment.test_needs())):
        say(f"The Python of that ComfyUI lacks {', '.join(missing)}, so the tests run in an environment made for it.")
        own = None
    if own is None:
        made = environment.for_host(folder)
        own = made.prepare()
        requirements = (folder / "requirements.txt").read_text(encoding="utf-8")
        made.install(requirements, audio=environment.needs_audio(folder), development=development)
    return Host(folder, own, version, ours=False)
