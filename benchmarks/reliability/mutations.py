"""Files as accidents and strangers make them: cut, flipped, spliced, and with headers that lie under a right checksum."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from typing import Any

NUMBERS: list[Any] = [
    0, -1, 1, 2**31 - 1, 2**40, 2**63, -(2**63), 10**400, 1e308, float("nan"), float("inf"), 0.5, True, None, "", "1", "nan", [], [[1.0]],
    {}, "\ud83d", "a\0b", "x" * 300, "x" * 70_000, "../../etc/passwd", [[[[[[[[]]]]]]]],
]  # fmt: skip

Change = Callable[[random.Random, bytes, list[bytes]], bytes]


def cut(draw: random.Random, raw: bytes, seeds: list[bytes]) -> bytes:
    return raw[: draw.randrange(len(raw) + 1)]


def flipped(draw: random.Random, raw: bytes, seeds: list[bytes]) -> bytes:
    changed = bytearray(raw)
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        if changed:
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def flipped_early(draw: random.Random, raw: bytes, seeds: list[bytes]) -> bytes:
    """Headers are where sizes and kinds are declared."""
    first = min(len(raw), 512)
    return flipped(draw, raw[:first], seeds) + raw[first:]


def overwritten(draw: random.Random, raw: bytes, seeds: list[bytes]) -> bytes:
    """A run of zeros, of ones or of noise, as a failing disk leaves it."""
    start = draw.randrange(len(raw) + 1)
    length = draw.choice((1, 4, 8, 64, 4096))
    run = draw.choice((b"\0" * length, b"\xff" * length, draw.randbytes(length)))
    return raw[:start] + run + raw[start + length :]


def inserted(draw: random.Random, raw: bytes, seeds: list[bytes]) -> bytes:
    start = draw.randrange(len(raw) + 1)
    return raw[:start] + draw.randbytes(draw.choice((1, 8, 1000))) + raw[start:]


def spliced(draw: random.Random, raw: bytes, seeds: list[bytes]) -> bytes:
    """The beginning of one file and the end of another."""
    other = draw.choice(seeds)
    return raw[: draw.randrange(len(raw) + 1)] + other[draw.randrange(len(other) + 1) :]


def another_kind(draw: random.Random, raw: bytes, seeds: list[bytes]) -> bytes:
    heads = (b"", b"PK\x03\x04", b"\x80\x02}q\0.", b"\x89PNG\r\n\x1a\n", b"GGUF", b"<html>", b"version https://git-lfs", b"\0" * 64)
    head = draw.choice(heads)
    return head + draw.randbytes(draw.choice((0, 1, 100, 5000)))


def length_of_header(draw: random.Random, raw: bytes, seeds: list[bytes]) -> bytes:
    size = draw.choice((0, 1, 7, len(raw) - 8, len(raw), 2**20, 100_000_001, 2**31, 2**63, 2**64 - 1))
    return (size % 2**64).to_bytes(8, "little") + raw[8:]


BYTES: tuple[Change, ...] = (cut, flipped, flipped_early, overwritten, inserted, spliced, another_kind)


def changed_json(draw: random.Random, value: Any) -> Any:
    """The same tree with one place changed, taken away or doubled."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(list(value))
        chance = draw.random()
        if chance < 0.1:
            return {name: each for name, each in value.items() if name != key}
        if chance < 0.2:
            return {**value, draw.choice(("", "x", key + "x", "__metadata__", "a" * 300)): value[key]}
        return {**value, key: changed_json(draw, value[key])}
    if isinstance(value, list) and value and draw.random() < 0.8:
        place = draw.randrange(len(value))
        return [*value[:place], changed_json(draw, value[place]), *value[place + draw.choice((0, 1, 1)) :]]
    return draw.choice(NUMBERS)


def json_text(draw: random.Random, raw: bytes, seeds: list[bytes]) -> bytes:
    """A file of JSON with one place changed."""
    return json.dumps(changed_json(draw, json.loads(raw))).encode()


def table_of_tensors(draw: random.Random, raw: bytes, seeds: list[bytes]) -> bytes:
    """A safetensors file whose header lies: names, shapes, kinds, places; its checksum, where it has one, is right."""
    header, data = parts(raw)
    return signed(changed_json(draw, header), data)


def facts(draw: random.Random, raw: bytes, seeds: list[bytes]) -> bytes:
    """A container whose facts lie, under a right checksum."""
    header, data = parts(raw)
    told = header.get("__metadata__", {})
    text = json.dumps(changed_json(draw, json.loads(told.get("b4m", "{}"))))
    return signed({**header, "__metadata__": {**told, "b4m": text}}, data)


SAFETENSORS: tuple[Change, ...] = (*BYTES, length_of_header, table_of_tensors, table_of_tensors, facts, facts)


def parts(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the data of a safetensors file."""
    end = 8 + int.from_bytes(raw[:8], "little")
    return json.loads(raw[8:end]), raw[end:]


def signed(header: Any, data: bytes) -> bytes:
    """A safetensors file with the checksum that container.py wants over facts, table and data."""
    told = header.get("__metadata__") if isinstance(header, dict) else None
    if isinstance(told, dict) and isinstance(told.get("b4m"), str):
        table = json.dumps({key: value for key, value in header.items() if key != "__metadata__"}, separators=(",", ":"), sort_keys=True)
        digest = hashlib.sha256(told["b4m"].encode("utf-8", "replace") + b"\0" + table.encode() + b"\0" + data).hexdigest()
        header = {**header, "__metadata__": {**told, "b4m.sha256": digest}}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data
