"""Nothing is made from what a small file declares: not its layers, not their sizes, not the numbers in its facts."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from tiny_files import FACTS, forged
from torch import Tensor

from b4m_core import B4MError, Facts, load_adapter, lora_state_dict
from b4m_core.bounds import MOST_RANK, Largest, require_possible
from b4m_core.compact_format import taught_parts
from b4m_core.files import FORMATS

SDXL = Largest(609, 2560, 23040)
NAME = "down_blocks.{}.attentions.0.transformer_blocks.{}.attn1.to_q"


def compact_file(path: Path, shapes: list[tuple[int, int]], rank: int, split: str, role: str) -> Path:
    """A compact file with a right checksum that declares these layers, and holds what it must for them."""
    facts = Facts(role=role, rank=rank, split=split, compact=True, file_dtype="float16", basis="a" * 64)
    names = sorted(NAME.format(1 + index % 2, index // 2) for index in range(len(shapes)))
    tensors: dict[str, Tensor] = {"shapes": torch.tensor(shapes, dtype=torch.int32)}
    for name, (m, n) in zip(names, shapes, strict=True):
        for part in facts.taught:
            tensors[f"{name}.{part}"] = torch.zeros(facts.split_row.shape_of(part, m, n, rank), dtype=torch.float16)
    return forged(path, tensors, facts.to_json())


HOSTILE: dict[str, tuple[list[tuple[int, int]], int, str, str]] = {
    "rows": ([(65536, 1)], 4000, "halves", "content"),
    "columns": ([(1, 65536)], 4000, "halves", "style"),
    "many": ([(2048, 1)] * 500, 1000, "full", "content"),
    "too many layers": ([(1, 4)] * 1500, 1, "halves", "content"),
    "sizes": ([(1500 + index, 4) for index in range(500)], 1, "halves", "content"),
    "rank": ([(2048, 2)] * 60, 1024, "halves", "content"),
    "int32": ([(2**31 - 1, 4)], 1, "full", "content"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_small_file_that_declares_much_is_refused_at_once_and_in_little_memory(kind: str, tmp_path: Path) -> None:
    file = compact_file(tmp_path / "hostile.safetensors", *HOSTILE[kind])
    size = file.stat().st_size
    assert size < 3_000_000
    began = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(B4MError, match="hostile.safetensors is damaged or no adapter: it declares"):
            load_adapter(file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 1 and peak < 2 * size + 8_000_000


def test_nothing_is_drawn_before_the_sizes_are_known_to_be_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn is no memory of Python's: torch's own is seen by asking who draws."""
    for module in ("compact_format", "files"):
        monkeypatch.setattr(f"b4m_core.{module}.fresh_layer", lambda *_: pytest.fail("a layer was begun"))
    for kind, declared in HOSTILE.items():
        with pytest.raises(B4MError):
            load_adapter(compact_file(tmp_path / f"{kind}.safetensors", *declared))
    adapter = tiny.small_adapter(**FACTS)
    for rows in (4096, 65536):
        tensors = {key: value.half() for key, value in lora_state_dict(adapter).items()}
        key = next(key for key in tensors if key.endswith("lora_up.weight"))
        tensors[key] = torch.zeros(rows, tensors[key].shape[1], dtype=torch.float16)
        with pytest.raises(B4MError, match="no model of its kind has one"):
            load_adapter(forged(tmp_path / "lora.safetensors", tensors, adapter.facts.to_json()))


@pytest.mark.parametrize("split,role", [(split, role) for split in ("free", "full", "halves") for role in ("content", "style", "merged")])
def test_every_real_compact_file_of_sdxl_s_shapes_is_possible(split: str, role: str) -> None:
    """At any rank, in the smallest dtype: ours are far from the bound."""
    shapes = {f"{kind}{index}": kind for index in range(70) for kind in ((640, 640), (1280, 1280), (640, 2048), (1280, 2048))}
    for rank in (1, 32, 512):
        facts = Facts(role=role, rank=rank, split=split, compact=True)
        parts = facts.taught
        held = sum(2 * a * b for m, n in shapes.values() for a, b in (facts.split_row.shape_of(part, m, n, rank) for part in parts))
        require_possible(shapes, rank, SDXL, held, "x")
        made = sum(4 * rank * (m + n) for m, n in shapes.values())
        assert made < 24 * held


def test_a_file_of_thousands_of_tensors_is_refused_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("b4m_core.container.MOST_TENSORS", 10**6)
        file = compact_file(tmp_path / "hostile.safetensors", [(1, 4)] * 8001, 1, "halves", "content")
    monkeypatch.setattr("b4m_core.container._digest", lambda *_: pytest.fail("it was read"))
    with pytest.raises(B4MError, match="hostile.safetensors holds 8002 tensors, which no adapter has"):
        load_adapter(file)


@pytest.mark.parametrize("rank", [0, -1, MOST_RANK + 1, 10**9])
def test_a_rank_beyond_every_adapter_is_refused(rank: int) -> None:
    with pytest.raises(B4MError, match=f"rank {rank}"):
        require_possible({"x": (640, 640)}, rank, SDXL, 10**12, "x")
    with pytest.raises(B4MError, match="facts in this file are damaged"):
        Facts.from_json(json.dumps({**json.loads(Facts("content", 2).to_json()), "rank": rank}))


def test_a_tiny_file_holds_as_little_as_its_bound_allows(tmp_path: Path) -> None:
    """The bound does not refuse what is small: adapters of two layers, in every form."""
    for kind in tiny.KINDS.values():
        adapter = tiny.small_adapter(**kind).compacted()  # type: ignore[arg-type]
        assert FORMATS["compact"].layers(taught_parts(adapter), adapter.facts, "x").keys() == adapter.layers.keys()


def deep(value: object) -> Any:
    for _ in range(500):
        value = [value]
    return value


BAD = [None, True, "1", float("nan"), float("inf"), 10**30, 2**80, "\ud83d", "x" * 10_000, [[1.0]], {"a": {"b": []}}, deep(1), "", 0]
PLACES: dict[str, Callable[[dict[str, Any], Any], None]] = {
    "a loss": lambda facts, value: facts["losses"].append([1.0, value, 2.0]),
    "a row of losses": lambda facts, value: facts["losses"].append(value),
    "losses": lambda facts, value: facts.update(losses=value),
    "a prompt": lambda facts, value: facts["content"]["prompts"].append(value),
    "prompts": lambda facts, value: facts["content"].update(prompts=value),
    "a trigger": lambda facts, value: facts["content"].update(trigger=value),
    "a concept": lambda facts, value: facts.update(style=value),
    "a parent": lambda facts, value: facts["parents"].append(value),
    "a setting": lambda facts, value: facts["settings"].update(resolution=value),
    "an old name of a setting": lambda facts, value: facts["settings"].update(clip=value),
    "the rank": lambda facts, value: facts.update(rank=value),
    "the steps": lambda facts, value: facts.update(steps=value),
    "the seed of the basis": lambda facts, value: facts.update(basis_seed=value),
    "the name of the base model": lambda facts, value: facts.update(base_name=value),
    "a field that nobody knows": lambda facts, value: facts.update(what=value),
}


@pytest.mark.parametrize("place", PLACES)
def test_every_number_and_text_in_the_facts_is_looked_at(place: str) -> None:
    """Refused in a sentence, or such that they can be shown, written and read again."""
    for value in BAD:
        facts = json.loads(tiny.small_adapter(**FACTS).facts.to_json())
        PLACES[place](facts, value)
        try:
            read = Facts.from_json(json.dumps(facts))
        except B4MError as error:
            assert "\n" not in str(error) and len(str(error)) < 400
            continue
        assert read.summary().encode() and Facts.from_json(read.to_json()) == read


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**30, True, "1", None])
def test_a_number_that_is_none_is_refused_wherever_a_number_belongs(value: object) -> None:
    for place in ("a loss", "the rank", "the steps", "the seed of the basis"):
        facts = json.loads(tiny.small_adapter(**FACTS).facts.to_json())
        PLACES[place](facts, value)
        with pytest.raises(B4MError, match="facts in this file are damaged"):
            Facts.from_json(json.dumps(facts))


@pytest.mark.parametrize("text", ["a\nb\tc", "x" * 10**6, "\ud83d half", "\x1b[31mred", "a" * 399, "/a/long/path" * 20 + "/x.safetensors"])
def test_whatever_an_error_quotes_it_is_one_short_sentence(text: str) -> None:
    sentence = str(B4MError(f"{text} is wrong: choose another."))
    assert sentence.isprintable() and sentence.encode() and len(sentence) < 700 and sentence.endswith(" is wrong: choose another.")
    assert text in sentence or not text.isprintable() or len(text) > 400
