"""A save that is killed, two saves at once, a disk that flips bits: beside safetensors' own save and accelerate's checkpoints.

Children are forked, so that each begins at once, and killed with SIGKILL at random instants of a save.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch

from b4m_core import Adapter, B4MError, Facts, load_adapter, save_adapter

from .row import Row

SHAPES = {f"down_blocks.1.attentions.0.transformer_blocks.0.attn{a}.to_{p}": (640, 640) for a in (1, 2) for p in "qkv"}
Save = Callable[[Path, int], object]
Check = Callable[[Path], bool]


@functools.cache
def adapter(number: int) -> Adapter:
    """One of 6 MB, every learned number of it ``number``."""
    made = Adapter.fresh(SHAPES, Facts(role="merged", rank=128, split="free", file_dtype="float16"))
    for layer in made.layers.values():
        for part in layer.parameters():
            part.data.fill_(number)
    return made


def killed(save: Save, whole: Check, target: str, tries: int, longest: float) -> tuple[int, int, float]:
    """(targets lost, folders with something beside the target, its MB at most) of so many kills over a target that was whole."""
    draw = random.Random(0)
    lost = strays = 0
    most = 0.0
    with tempfile.TemporaryDirectory(prefix="b4m-kill-") as place:
        for number in range(tries):
            folder = Path(place) / str(number)
            folder.mkdir()
            save(folder / target, 1)
            if not whole(folder / target):
                raise RuntimeError(f"{target} cannot be read where nobody was killed")
            child = os.fork()
            if child == 0:
                _save_for_ever(save, folder / target)
            time.sleep(draw.uniform(0, longest))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            lost += not whole(folder / target)
            beside = [entry for entry in folder.iterdir() if entry.name != target]
            strays += bool(beside)
            most = max(most, sum(entry.stat().st_size for entry in beside) / 1e6)
    return lost, strays, most


def _save_for_ever(save: Save, path: Path) -> None:
    """In a child: never returns."""
    try:
        for number in range(2, 10**6):
            save(path, number)
    except BaseException:
        traceback.print_exc()
    os._exit(1)


def _ours(path: Path, number: int) -> None:
    save_adapter(adapter(number % 2), path)


def _is_ours(path: Path) -> bool:
    try:
        return load_adapter(path).digest() in {adapter(number).digest() for number in range(2)}
    except B4MError:
        return False


def _theirs(path: Path, number: int) -> None:
    safetensors.torch.save_file({f"{index}": torch.full((1000, 1000), float(number)) for index in range(3)}, path)


def _is_theirs(path: Path) -> bool:
    try:
        found = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError):
        return False
    return len({float(value) for tensor in found.values() for value in (tensor.min(), tensor.max())}) == 1


def kill_rows(tries: int) -> list[Row]:
    """A kill in the middle of a save over an older file."""
    adapter(0), adapter(1)  # made once, not in every child
    with tempfile.TemporaryDirectory() as place:
        began = time.monotonic()
        _ours(Path(place) / "x.safetensors", 1)
        once = time.monotonic() - began
    lost, strays, most = killed(_ours, _is_ours, "x.safetensors", tries, 3 * once)
    theirs = killed(_theirs, _is_theirs, "x.safetensors", tries, 3 * once)
    left = _left_after_the_next_save()
    peer = f"safetensors' save_file: {theirs[0]} of {tries} lost, {theirs[1]} leave a temporary file (up to {theirs[2]:.0f} MB) for ever"
    worst = f"{strays} leave a temporary file, {most:.0f} MB at most"
    stay = f"safetensors: {theirs[1]} of {tries} stay"
    return [
        Row("kill -9 while an adapter is saved over an older one", tries, lost, worst, peer),
        Row("temporary files of killed saves that are there after the next save", 20, left, "", stay),
        _accelerate(max(tries // 2, 5)),
    ]


def _left_after_the_next_save() -> int:
    """Twenty strays of dead writers beside one file: how many are left after one more save."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for number in range(20):
            (folder / f".b4m-{number:016x}.partial").write_bytes(b"half")
        _ours(folder / "x.safetensors", 1)
        return len(list(folder.iterdir())) - 1


def _accelerate(tries: int) -> Row:
    """accelerate's save_state over an older checkpoint: the network and its moments must be of one step."""
    what = "the same with a whole state: network and optimiser of one step"
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
    except ImportError:
        return Row(what, 0, 0, "not run: accelerate is not installed")
    AcceleratorState._reset_state(True)
    accelerator = Accelerator(cpu=True)
    network = torch.nn.Linear(1000, 1000)
    network, optimiser = accelerator.prepare(network, torch.optim.AdamW(network.parameters()))
    network(torch.ones(1, 1000)).sum().backward()
    optimiser.step()

    def fill(number: int) -> None:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(number)
                optimiser.state[parameter]["exp_avg"].fill_(number)

    def save(path: Path, number: int) -> None:
        fill(number)
        accelerator.save_state(str(path))

    def whole(path: Path) -> bool:
        try:
            fill(-1)
            accelerator.load_state(str(path))
        except Exception:  # whatever it raises, the checkpoint is lost
            return False
        values = {float(value) for parameter in network.parameters() for value in (parameter.detach().min(), parameter.detach().max())}
        moments = {float(optimiser.state[parameter]["exp_avg"].flatten()[0]) for parameter in network.parameters()}
        return values == moments and len(values) == 1

    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stderr(None):
        began = time.monotonic()
        save(Path(place) / "state", 1)
        once = time.monotonic() - began
    lost, _, _ = killed(save, whole, "state", tries, 3 * once)
    ours = killed(_state, _is_state, "state.safetensors", tries, 3 * once)
    worst = f"{ours[1]} leave a temporary file until the next save"
    return Row(what, tries, ours[0], worst, f"accelerate's save_state: {lost} of {tries} cannot be read or are of two steps")


def _state(path: Path, number: int) -> None:
    from b4m_core.container import write_container

    tensors = {name: torch.full((1000, 1000), float(number)) for name in ("network", "exp_avg", "exp_avg_sq")}
    write_container(path, tensors, f'{{"step": {number}}}')


def _is_state(path: Path) -> bool:
    from b4m_core.container import read_container

    try:
        text, tensors = read_container(path)
    except B4MError:
        return False
    return {float(value) for tensor in tensors.values() for value in (tensor.min(), tensor.max())} == {float(text[9:-1])}


def together_row(rounds: int) -> Row:
    """Two saves of one name at one moment."""

    def lost_of(save: Save, whole: Check) -> int:
        lost = 0
        with tempfile.TemporaryDirectory(prefix="b4m-both-") as place:
            path = Path(place) / "x.safetensors"
            save(path, 0), save(path, 1)
            for number in range(rounds):
                path.unlink(missing_ok=True)
                ready = threading.Barrier(2)

                def run(value: int, ready: threading.Barrier = ready) -> None:
                    ready.wait()
                    with contextlib.suppress(OSError, B4MError, safetensors.SafetensorError):
                        save(path, value)

                threads = [threading.Thread(target=run, args=(number + each,)) for each in range(2)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                lost += not (path.exists() and whole(path))
        return lost

    peer = f"safetensors' save_file: {lost_of(_theirs, _is_theirs)} of {rounds} lost"
    return Row("two saves of one name within milliseconds: no whole file after them", rounds, lost_of(_ours, _is_ours), "", peer)


def flip_row(tries: int) -> Row:
    """One flipped bit in the numbers of a file."""
    draw = random.Random(0)
    missed = unseen = 0
    with tempfile.TemporaryDirectory() as place:
        path, other = Path(place) / "x.safetensors", Path(place) / "y.safetensors"
        small = Adapter.fresh(dict.fromkeys(list(SHAPES)[:2], (8, 8)), Facts(role="content", rank=2))
        raw = save_adapter(small, path).read_bytes()
        start = 8 + int.from_bytes(raw[:8], "little")
        for _ in range(tries):
            flipped = bytearray(raw)
            flipped[draw.randrange(start, len(raw))] ^= 1 << draw.randrange(8)
            other.write_bytes(flipped)
            with contextlib.suppress(B4MError):
                load_adapter(other)
                missed += 1
            with contextlib.suppress(safetensors.SafetensorError):
                safetensors.torch.load_file(other)
                unseen += 1
    peer = f"safetensors: {unseen} of {tries} loaded unseen"
    return Row("one flipped bit in the numbers of a file, loaded unseen", tries, missed, "", peer)


def rows(quick: bool) -> list[Row]:
    """The table's lines."""
    found = kill_rows(10 if quick else 200)
    return [*found, together_row(30 if quick else 300), flip_row(200 if quick else 5000)]
