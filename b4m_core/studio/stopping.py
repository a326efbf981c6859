"""How the workers of one command are told to stop: the training that each is at is kept first, and goes on with the next
command.
"""

_STOPPED: set[str] = set()
"""The sessions that were asked to stop, in this process."""


class Stopped(Exception):
    """The work was asked to stop, and what it had is kept."""


def stop(session: str) -> None:
    """Ask whatever works for ``session`` in this process to stop."""
    _STOPPED.add(session)


def check(session: str) -> None:
    """Raise :class:`Stopped` if ``session`` was asked to stop."""
    if session in _STOPPED:
        raise Stopped
