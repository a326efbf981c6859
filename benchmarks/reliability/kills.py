"""A training that is killed (SIGKILL) at random instants, again and again, until it comes to its end: through the method itself, the
command line and a ComfyUI server. It must come to the bytes of one that nobody disturbed, lose at most what was not kept yet, and leave
nothing beside its files.

Meanwhile every step is written, renamed and read back, and older files make room, so that kills meet all of that.
"""

from __future__ import annotations

import functools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from b4m_core import B4MError, RunStore, attempts

from . import servers
from .small_training import plan, result_bytes, trained

ROOT = Path(__file__).resolve().parents[2]
ROLES = ("content", "style", "together")
Line = tuple[str, int, int, str, str]
MOST_KILLS = 25  # of one training
EVERY_STEP = "import b4m_core.keeping as k; k.SAVE_SECONDS = -1.0; import b4m_core.attempts as a; a.MOST_ADAPTERS = 3\n"


def rows(quick: bool) -> list[Line]:
    """The lines of the table."""
    if not hasattr(os, "fork"):
        return []
    return [
        _trainings(9 if quick else 120),
        _retrainings(3 if quick else 30),
        _prunings(6 if quick else 20),
        _command_lines(2 if quick else 15),
        *servers.kills(1 if quick else 15),
    ]


def _trainings(kills: int) -> Line:
    """Trainings of every kind that keep each step, and go on after each kill."""
    draw, done, lost, repeated, strays = random.Random(1), 0, 0, 0, 0
    with tempfile.TemporaryDirectory(prefix="b4m-kills-") as place:
        for number, role in _forever(ROLES):
            if done >= kills:
                break
            folder, made = Path(place) / str(number), plan(role, seed=number)
            whole = Path(place) / f"whole {number}"
            began = time.monotonic()
            trained(made, RunStore(whole))
            seconds, kept = time.monotonic() - began, 0
            for _ in range(min(MOST_KILLS, kills - done)):
                work = functools.partial(_train, made, folder)
                ended, seen = _killed(work, draw.uniform(0.05, 1.1) * seconds)
                done += not ended
                if seen:
                    repeated = max(repeated, kept - (seen[0] - 1))
                    kept = max(kept, seen[-1])
                if ended:
                    break
            trained(made, RunStore(folder))
            lost += result_bytes(made, folder) != result_bytes(made, whole)
            strays += len(list(folder.rglob("*.partial")))
    return ("killed while a training trains, writes, renames and thins", done, lost, f"{repeated} steps repeated; {strays} files left", "")


def _retrainings(kills: int) -> Line:
    """A finished run that is trained anew: at every instant what was there, or the new one, can be taken."""
    draw, done, lost = random.Random(2), 0, 0
    with tempfile.TemporaryDirectory(prefix="b4m-kills-") as place:
        store, made = RunStore(Path(place)), plan()
        began = time.monotonic()
        expected = trained(made, store).digest()
        seconds = time.monotonic() - began
        while done < kills:
            ended, _ = _killed(lambda note: _train(made, Path(place), note, retrain=True), draw.uniform(0.05, 1.1) * seconds)
            done += not ended
            run = store.runs()[0]
            found = run.adapter(made.settings.steps)
            lost += found is None or found.with_facts(file_dtype=made.settings.file_dtype).rounded().digest() != expected
    return ("killed while a finished run is trained anew", done, lost, "the finished adapter was there after each", "")


def _prunings(kills: int) -> Line:
    """The store is pruned: what is half gone is whole or begins anew."""
    draw, done, lost = random.Random(3), 0, 0
    with tempfile.TemporaryDirectory(prefix="b4m-kills-") as place:
        made = plan(steps=3)
        trained(made, RunStore(Path(place) / "whole"))
        for number in range(kills):
            store = RunStore(Path(place) / str(number))
            trained(made, store)
            ended, _ = _killed(lambda note, store=store: store.prune(0) and None, draw.uniform(0, 0.01))
            done += not ended
            trained(made, store)
            lost += result_bytes(made, store.root) != result_bytes(made, Path(place) / "whole")
    return ("killed while the store is pruned", done, lost, "", "")


def _command_lines(kills: int) -> Line:
    """`b4m.py train content` as a program of its own, with the embedded model."""
    if not os.environ.get("B4M_TOKENIZER"):
        return ("killed while the command line trains", 0, 0, "not run: B4M_TOKENIZER names no tokenizer", "")
    draw, done, lost = random.Random(4), 0, 0
    with tempfile.TemporaryDirectory(prefix="b4m-kills-") as place:
        whole = _run_command_line(Path(place) / "whole")
        began = time.monotonic()
        _end(whole, None)
        seconds = time.monotonic() - began
        number = 0
        while done < kills:
            number += 1
            folder = Path(place) / str(number)
            for _ in range(min(MOST_KILLS, kills - done)):
                if _end(_run_command_line(folder), draw.uniform(0.4, 1.0) * seconds):
                    break
                done += 1
            _end(_run_command_line(folder), None)
            lost += _adapters_of(folder) != _adapters_of(Path(place) / "whole")
    return ("killed while the command line trains", done, lost, "", "")


def _run_command_line(folder: Path) -> subprocess.Popen[bytes]:
    words = ["train", "content", "--pictures", str(ROOT / "workflows/pictures/demo_content"), "--trigger", "snq", "--class", "bird"]
    words += ["--steps", "6", "--rank", "4", "--resolution", "128", "--gradient-accumulation-steps", "1", "--auxiliary-sets", "0"]
    words += ["--keep-every", "1", "--store", str(folder / "store"), "--out", str(folder / "out.safetensors")]
    code = EVERY_STEP + "import sys; from b4m_core.commandline import main; sys.exit(main(sys.argv[1:]))"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, "-c", code, *words], cwd=ROOT, **quiet)


def _end(program: subprocess.Popen[bytes], seconds: float | None) -> bool:
    """Whether it came to its end by itself within so many seconds; it is killed otherwise."""
    try:
        if program.wait(seconds) != 0:
            raise RuntimeError(f"the command line ended with {program.returncode}")
        return True
    except subprocess.TimeoutExpired:
        program.kill()
        program.wait()
        return False


def _adapters_of(folder: Path) -> bytes:
    return (folder / "out.safetensors").read_bytes()


def _forever(roles: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    number = 0
    while True:
        yield number, roles[number % len(roles)]
        number += 1


def _train(made: object, folder: Path, note: Callable[[int], None], **named: object) -> None:
    attempts.MOST_ADAPTERS = 3
    trained(made, RunStore(folder), lambda progress: note(progress.step) if progress.step_done else None, **named)  # type: ignore[arg-type]


def _killed(work: Callable[[Callable[[int], None]], object], seconds: float) -> tuple[bool, list[int]]:
    """Do ``work`` in a fork, killed after so many seconds; whether it came to its end, and the steps that it noted."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work(lambda step: os.write(writable, step.to_bytes(2, "little")) and None)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(writable)
    deadline = time.monotonic() + seconds
    ended = 0
    while not ended and time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.005)
    if not ended:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    with os.fdopen(readable, "rb") as notes:
        said = notes.read()
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise B4MError("A training ended by an error and not by its kill: see above.")
    steps = [int.from_bytes(said[place : place + 2], "little") for place in range(0, len(said) - 1, 2)]
    return os.WIFEXITED(status), steps
