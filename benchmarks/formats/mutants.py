"""Files that were damaged on their way, of every layout: python -m benchmarks.formats.mutants [--count N]

Each is loaded and, where it loads, put on a small network. Found must be: our error or a load, within a second, in at most twice the file's
memory (and 4 MB), and a network that is as it was wherever an error came.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.append(str(REPOSITORY / "tests" / "b4m_core"))

from b4m_core import Adapter, B4MError, load_adapter  # noqa: E402
from b4m_core.carried import add_to  # noqa: E402
from b4m_core.models.sdxl.modules import layer_key  # noqa: E402

from .layouts import WRITERS  # noqa: E402

SECONDS, MEMORY, SPARE = 1.0, 2.0, 4 << 20
Header = dict[str, Any]
Mutation = Callable[[random.Random, Header, bytes], bytes]


def taken_apart(raw: bytes) -> tuple[Header, bytes]:
    """The table of a safetensors file and its data."""
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def put_together(header: Header | bytes, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def _key(draw: random.Random, header: Header) -> str:
    return draw.choice([key for key in header if key != "__metadata__"])


def _cut(draw: random.Random, header: Header, data: bytes) -> bytes:
    raw = put_together(header, data)
    return raw[: draw.randrange(len(raw))]


def _flipped(draw: random.Random, header: Header, data: bytes) -> bytes:
    raw = bytearray(put_together(header, data))
    for _ in range(draw.choice((1, 1, 4, 64))):
        raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
    return bytes(raw)


def _flipped_header(draw: random.Random, header: Header, data: bytes) -> bytes:
    raw = bytearray(put_together(header, data))
    raw[draw.randrange(len(raw) - len(data))] = draw.randrange(256)
    return bytes(raw)


def _longer(draw: random.Random, header: Header, data: bytes) -> bytes:
    return put_together(header, data + bytes(draw.randrange(1, 999)))


def _dropped(draw: random.Random, header: Header, data: bytes) -> bytes:
    """One tensor, or all of one part, without its data: the offsets of the rest are made to fit."""
    gone = {_key(draw, header)}
    if draw.random() < 0.3:
        part = next(iter(gone)).rpartition(".")[2]
        gone = {key for key in header if key.endswith(part)}
    return _rebuilt({key: entry for key, entry in header.items() if key not in gone}, data)


def _rebuilt(header: Header, data: bytes) -> bytes:
    table, pieces, offset = {}, [], 0
    for key, entry in header.items():
        if key == "__metadata__":
            table[key] = entry
            continue
        piece = data[entry["data_offsets"][0] : entry["data_offsets"][1]]
        table[key] = {**entry, "data_offsets": [offset, offset + len(piece)]}
        pieces.append(piece)
        offset += len(piece)
    return put_together(table, b"".join(pieces))


def _renamed(draw: random.Random, header: Header, data: bytes) -> bytes:
    old = _key(draw, header)
    ways = (
        lambda: old + draw.choice((".extra", "\u0000", "é", "." * 50, "x" * 5000)),
        lambda: draw.choice(("lora_unet_", "unet.", "", "text_encoder.", "../")) + old,
        lambda: old.replace("down", draw.choice(("up", "mid", "donw"))),
        lambda: old.replace("_0", f"_{draw.randrange(10**6)}").replace(".0.", f".{draw.randrange(99)}."),
        lambda: _key(draw, header),
    )
    new = draw.choice(ways)()
    return _rebuilt({new if key == old else key: entry for key, entry in header.items()}, data)


def _reshaped(draw: random.Random, header: Header, data: bytes) -> bytes:
    """Another shape of as many numbers, or of any."""
    key = _key(draw, header)
    shape = list(header[key]["shape"])
    total = 1
    for count in shape:
        total *= count
    new = draw.choice(
        (
            shape[::-1],
            [total],
            [1, total],
            [total, 1],
            [1, 1, *shape],
            [*shape, 1],
            [],
            [0],
            [2**40, 2],
            [-1],
            [total // 2, 2],
        )
    )
    return put_together({**header, key: {**header[key], "shape": new}}, data)


def _swapped(draw: random.Random, header: Header, data: bytes) -> bytes:
    one, other = _key(draw, header), _key(draw, header)
    return put_together({**header, one: header[other], other: header[one]}, data)


def _other_dtype(draw: random.Random, header: Header, data: bytes) -> bytes:
    key = _key(draw, header)
    dtype = draw.choice(("I32", "I16", "BF16", "F64", "BOOL", "U8", "F8_E4M3", "F8_E5M2", "X9", "F16", "C64"))
    return put_together({**header, key: {**header[key], "dtype": dtype}}, data)


def _other_numbers(draw: random.Random, header: Header, data: bytes) -> bytes:
    """A tensor full of NaN, infinity, zeros or huge numbers."""
    start, end = header[_key(draw, header)]["data_offsets"]
    fill = draw.choice((b"\xff", b"\x00\x7c", b"\x00\x00\x80\x7f", b"\x00", b"\x7b\x7b"))
    piece = (fill * (end - start))[: end - start]
    return put_together(header, data[:start] + piece + data[end:])


def _other_alpha(draw: random.Random, header: Header, data: bytes) -> bytes:
    """alpha of any value, or of another size; of a layout without, one more tensor."""
    import numpy as np

    alphas = [key for key in header if key.endswith("alpha")]
    value = draw.choice((0.0, -1.0, 1e30, 1e-30, float("nan"), float("inf"), 65504.0))
    key = draw.choice(alphas) if alphas else _key(draw, header).rpartition(".lora")[0] + ".alpha"
    more = np.full(draw.choice((1, 1, 1, 3, 0)), value, dtype=np.float32).tobytes()
    entry = {
        "dtype": "F32",
        "shape": [len(more) // 4] if len(more) != 4 else [],
        "data_offsets": [len(data), len(data) + len(more)],
    }
    return _rebuilt({**header, key: entry}, data + more)


def _other_offsets(draw: random.Random, header: Header, data: bytes) -> bytes:
    key = _key(draw, header)
    start, end = header[key]["data_offsets"]
    new = draw.choice(([start, end + 2], [end, start], [start - 4, end], [0, len(data)], [2**60, 2**60 + 8], [start], "x", None))
    return put_together({**header, key: {**header[key], "data_offsets": new}}, data)


_NOTHING = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}


def _other_header(draw: random.Random, header: Header, data: bytes) -> bytes:
    """What else a header may hold: nesting, other types, a doubled key, a huge claim."""
    text = json.dumps(header).encode()
    ways: Sequence[Callable[[], bytes]] = (
        lambda: put_together({**header, "__metadata__": {"lora_adapter_metadata": "[" * draw.randrange(1, 99_999)}}, data),
        lambda: put_together({**header, "__metadata__": {"lora_adapter_metadata": '{"unet.r": -1, "unet.lora_alpha": 1e999}'}}, data),
        lambda: put_together({**header, "__metadata__": {"modelspec.trigger_phrase": "w" * draw.randrange(1, 99_999)}}, data),
        lambda: put_together({**header, "__metadata__": draw.choice((3, [], {"a": 1}, None))}, data),
        lambda: put_together(b'{"a":' * draw.randrange(1, 9999), data),
        lambda: put_together(text[:-1] + b"," + text[1:], data),
        lambda: draw.choice((2**63, 2**31, 10**8, 0)).to_bytes(8, "little") + text + data,
        lambda: put_together(b"[]", data),
        lambda: put_together({f"lora_unet_{n}.alpha": _NOTHING for n in range(60_000)}, b""),
    )  # fmt: skip
    return draw.choice(ways)()


def _nonsense(draw: random.Random, header: Header, data: bytes) -> bytes:
    return draw.choice((b"", b"\x80\x02}q\0.", draw.randbytes(300), b"PK\x03\x04" + draw.randbytes(90), b"\0" * 64))


MUTATIONS: tuple[Mutation, ...] = (
    _cut, _flipped, _flipped_header, _longer, _dropped, _renamed, _reshaped, _swapped, _other_dtype, _other_numbers, _other_alpha,
    _other_offsets, _other_header, _nonsense,
)  # fmt: skip


class Patient:
    """A small network that adapters are put on."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.weights = {}
        for name, weight in network.named_parameters():
            path, _, kind = name.rpartition(".")
            if (key := layer_key(f"unet.{path}")) is not None:
                self.weights[f"{key}.{kind}"] = weight.detach()
        self.before = {key: weight.clone() for key, weight in self.weights.items()}

    def put_on(self, adapter: Adapter) -> bool:
        """Whether the adapter fits; the network is left as it was either way. AssertionError where it was left half patched."""
        unet_only = [piece for piece in adapter.carried if not piece.of_text_encoder]
        try:
            targets = adapter.targets(self.network, whole=False)
            add_to(self.weights, unet_only, {}, "the network")
        except B4MError:
            assert all(torch.equal(weight, self.before[key]) for key, weight in self.weights.items()), "partly patched"
            return False
        for name in targets:
            adapter.layers[name].delta_weight()
        for key, weight in self.weights.items():
            weight.copy_(self.before[key])
        return True


def anonymous_memory() -> int:
    """Bytes of this process that are no file's, 0 where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssAnon")), 0)


def tried(raw: bytes, file: Path, patient: Patient, use_as: str) -> tuple[str, float, int]:
    """What came of a mutant (loaded, does not fit, refused), in seconds, and the bytes of memory beyond the file's double."""
    file.write_bytes(raw)
    memory, before = anonymous_memory(), time.thread_time()
    try:
        adapter = load_adapter(file, use_as)
    except B4MError as error:
        assert "\n" not in str(error) and len(str(error)) < 600, str(error)
        return "refused", time.thread_time() - before, 0
    took, more = time.thread_time() - before, anonymous_memory() - memory - int(MEMORY * len(raw)) - SPARE
    return "loaded" if patient.put_on(adapter) else "does not fit", took, max(more, 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500, help="mutants of each layout (500)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    import tiny

    patient, worst = Patient(tiny.tiny_unet()), 0.0
    with tempfile.TemporaryDirectory() as place:
        for name, write in WRITERS.items():
            if "LyCORIS" in name:
                continue
            raw = write(tiny.tiny_unet(), (), Path(place) / "whole", torch.float16).read_bytes()
            header, data = taken_apart(raw)
            draw, ends, slow, heavy = random.Random(f"{options.seed} {name}"), Counter[str](), 0.0, 0
            for number in range(options.count):
                mutant = MUTATIONS[number % len(MUTATIONS)](draw, header, data)
                end, seconds, more = tried(mutant, Path(place) / "mutant.safetensors", patient, draw.choice(("content", "style", "both")))
                ends[end] += 1
                slow, heavy = max(slow, seconds), max(heavy, more)
            worst = max(worst, slow)
            print(f"{name}: {dict(ends)}, slowest {slow:.2f} s, beyond twice the file {heavy / 1e6:.1f} MB", flush=True)
            if slow > SECONDS or heavy:
                print("  too slow or too much memory")
    return int(worst > SECONDS)


if __name__ == "__main__":
    sys.exit(main())
