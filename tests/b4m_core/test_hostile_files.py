"""Damaged, foreign and forged files: each refused in a sentence, none ever loaded as something else."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import tiny
import torch
from tiny_files import FACTS, assemble, forged, parts, refused, saved
from torch import Tensor

from b4m_core import Adapter, B4MError, Concept, Facts, PartlyLearnableProjection, load_adapter, lora_state_dict, save_adapter
from b4m_core.metadata import FORMAT


def test_every_flipped_byte_of_the_tensors_is_caught(tmp_path: Path) -> None:
    _, raw = saved(tmp_path, file_dtype="float16")
    first = len(raw) - len(parts(raw)[1])
    for place in range(first, len(raw), 3):
        flipped = bytearray(raw)
        flipped[place] ^= 1 << (place % 8)
        refused(tmp_path, bytes(flipped), "its checksum does not match")


def test_no_flipped_bit_of_the_header_changes_what_is_loaded(tmp_path: Path) -> None:
    """Either the file is refused, or adapter and facts are what they were (a bit of another tool's key)."""
    adapter, raw = saved(tmp_path, file_dtype="float16")
    end = len(raw) - len(parts(raw)[1])
    draw = random.Random(0)
    for place in sorted(draw.sample(range(8, end), 400)) + list(range(8)):
        flipped = bytearray(raw)
        flipped[place] ^= 1 << draw.randrange(8)
        (tmp_path / "bear.safetensors").write_bytes(flipped)
        try:
            again = load_adapter(tmp_path / "bear.safetensors")
        except B4MError:
            continue
        assert again.digest() == adapter.digest() and again.facts == adapter.facts


def test_two_layers_whose_places_were_exchanged_are_caught(tmp_path: Path) -> None:
    names = (tiny.LAYER, tiny.LAYER.replace("to_q", "to_v"))
    layers = {name: PartlyLearnableProjection(8, 8, 2, name=name) for name in names}
    save_adapter(tiny.filled(Adapter(layers, Facts(role="content", rank=2))), tmp_path / "two.safetensors")
    header, data = parts((tmp_path / "two.safetensors").read_bytes())
    q, v = sorted(key for key in header if key.endswith("lora_up.weight"))
    header[q]["data_offsets"], header[v]["data_offsets"] = header[v]["data_offsets"], header[q]["data_offsets"]
    refused(tmp_path, assemble(header, data), "checksum")


def test_numbers_that_are_declared_to_be_of_another_dtype_are_caught(tmp_path: Path) -> None:
    header, data = parts(saved(tmp_path, file_dtype="float16")[1])
    for entry in header.values():
        if entry.get("dtype") == "F16":
            entry["dtype"] = "BF16"
    refused(tmp_path, assemble(header, data))


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, 1000])
def test_a_truncated_file_is_refused_in_a_sentence(length: int, tmp_path: Path) -> None:
    refused(tmp_path, saved(tmp_path)[1][:length], r"broken\.safetensors is damaged or not a safetensors file")


def test_a_file_cut_anywhere_is_refused_in_a_sentence(tmp_path: Path) -> None:
    raw = saved(tmp_path)[1]
    for length in random.Random(1).sample(range(len(raw)), 60):
        refused(tmp_path, raw[:length])


def test_extra_bytes_at_the_end_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, saved(tmp_path)[1] + b"\0" * 8)


def test_an_ordinary_lora_is_a_free_content(tmp_path: Path) -> None:
    adapter = tiny.small_adapter()
    file = tmp_path / "ordinary.safetensors"
    for header in ({"ss_network_module": "networks.lora"}, None):
        file.write_bytes(safetensors.torch.save(lora_state_dict(adapter), header))
        read = load_adapter(file)
        assert read.facts.split == "free" and read.facts.role == "content" and "kohya" in read.facts.origin
        for name, layer in read.layers.items():
            torch.testing.assert_close(layer.delta_weight(1.0, 0.0), adapter.layers[name].delta_weight())


@pytest.mark.parametrize(
    "raw",
    [
        b"PK\x03\x04" + b"\0" * 100,
        b"\x80\x02}q\0." + b"\0" * 100,
        (2**63).to_bytes(8, "little") + b"{}",
        (100_000_001).to_bytes(8, "little") + b"{}",
        assemble(b"[" * 50_000, b""),
        assemble(b"\xff\xfe{}", b""),
        assemble(b'{"__metadata__":{"b4m":"{}"},"x":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}', b"\0" * 4),
        assemble(b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[-4,4]}}', b"\0" * 4),
        assemble(b'{"__metadata__":{"b4m":"{}","b4m.sha256":"0"},"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"\0" * 4),
        assemble(b'{"__metadata__":{"b4m":{"rank":1}},"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"\0" * 4),
        assemble(b'{"__metadata__":{"b4m":1},"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"\0" * 4),
        assemble(b'{"__metadata__":null,"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"\0" * 4),
    ],
    ids=["zip", "pickle", "length", "cap", "nested", "encoding", "overflow", "negative", "checksum", "object", "number", "null"],
)
def test_a_foreign_or_hostile_file_is_refused_in_a_sentence(raw: bytes, tmp_path: Path) -> None:
    refused(tmp_path, raw)


@pytest.mark.parametrize("again", ['"__metadata__":{"b4m":"{}"}', '"lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.alpha":1'])
def test_a_header_key_that_comes_twice_is_refused(again: str, tmp_path: Path) -> None:
    raw = saved(tmp_path)[1]
    header, data = raw[8 : len(raw) - len(parts(raw)[1])].decode().rstrip(), parts(raw)[1]
    refused(tmp_path, assemble((header[:-1] + "," + again + "}").encode(), data))
    refused(tmp_path, assemble(("{" + again + "," + header[1:]).encode(), data))


def test_facts_that_come_twice_in_the_metadata_never_win(tmp_path: Path) -> None:
    """JSON readers disagree on which of two equal keys counts; here neither order may load other facts than the checked ones."""
    adapter, raw = saved(tmp_path)
    header, data = raw[8 : len(raw) - len(parts(raw)[1])].decode().rstrip(), parts(raw)[1]
    other = json.dumps(json.dumps({**json.loads(adapter.facts.to_json()), "base_name": "evil"}))
    for place in ('"__metadata__":{', '"b4m.sha256"'):
        forgery = header.replace(place, place + f'"b4m":{other},' if place.endswith("{") else f'"b4m":{other},{place}', 1)
        (tmp_path / "bear.safetensors").write_bytes(assemble(forgery.encode(), data))
        try:
            assert load_adapter(tmp_path / "bear.safetensors").facts.base_name == "mini"
        except B4MError:
            pass


def test_a_file_of_a_newer_version_says_so(tmp_path: Path) -> None:
    adapter, _ = saved(tmp_path)
    text = json.dumps({**json.loads(adapter.facts.to_json()), "format": FORMAT + 1, "new_field": []})
    file = forged(tmp_path / "new.safetensors", lora_state_dict(adapter), text)
    with pytest.raises(B4MError, match=rf"written by a newer B4M \(format {FORMAT + 1}, this one reads up to {FORMAT}\): update B4M"):
        load_adapter(file)


WRONG = [None, "x", "", -1, 0, 1.5, True, [], {}, [[[]]], float("inf"), float("nan"), 10**30]


@pytest.mark.parametrize("field", [*Facts.__dataclass_fields__, "format"])
def test_hostile_facts_with_a_right_checksum_never_break_the_reader(field: str, tmp_path: Path) -> None:
    """Every field, of every wrong kind: refused in a sentence, or good enough to be shown and saved again."""
    adapter, _ = saved(tmp_path)
    tensors = lora_state_dict(adapter)
    for value in WRONG:
        text = json.dumps({**json.loads(adapter.facts.to_json()), field: value})
        file = forged(tmp_path / "hostile.safetensors", tensors, text)
        try:
            again = load_adapter(file)
        except B4MError:
            continue
        assert isinstance(again.facts.summary(), str)
        save_adapter(again, tmp_path / "again.safetensors")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "1", "null", "{}", '"x"', "[" * 100_000, '{"format": 1e400}', '{"format": 1}', "\ud800".encode("utf-8", "replace").decode()],
)
def test_facts_that_are_not_facts_are_refused_in_a_sentence(text: str, tmp_path: Path) -> None:
    file = forged(tmp_path / "hostile.safetensors", lora_state_dict(tiny.small_adapter()), text)
    with pytest.raises(B4MError, match="The B4M facts in this file are damaged"):
        load_adapter(file)


def without_a_down(tensors: dict[str, Tensor]) -> None:
    del tensors[next(key for key in tensors if key.endswith("lora_down.weight"))]


def of_integers(tensors: dict[str, Tensor]) -> None:
    for key in tensors:
        tensors[key] = tensors[key].to(torch.int8)


def with_a_nan(tensors: dict[str, Tensor]) -> None:
    next(value for key, value in tensors.items() if key.endswith("lora_up.weight"))[-1, -1] = float("nan")


def of_another_rank(tensors: dict[str, Tensor]) -> None:
    for key in tensors:
        if key.endswith("lora_up.weight"):
            tensors[key] = torch.zeros(tensors[key].shape[0], 6)
        if key.endswith("lora_down.weight"):
            tensors[key] = torch.zeros(6, tensors[key].shape[1])


def of_one_dimension(tensors: dict[str, Tensor]) -> None:
    for key in tensors:
        tensors[key] = tensors[key].flatten()


def with_another_size(tensors: dict[str, Tensor]) -> None:
    key = next(key for key in tensors if key.endswith("lora_up.weight"))
    tensors[key] = torch.zeros(14, 4)


def with_a_foreign_layer(tensors: dict[str, Tensor]) -> None:
    tensors["lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight"] = torch.zeros(4, 4)


def without_any_layer(tensors: dict[str, Tensor]) -> None:
    tensors.clear()
    tensors["x"] = torch.zeros(1)


@pytest.mark.parametrize(
    "change",
    [
        without_a_down,
        of_integers,
        with_a_nan,
        of_another_rank,
        of_one_dimension,
        with_another_size,
        with_a_foreign_layer,
        without_any_layer,
    ],
)
def test_hostile_tensors_with_a_right_checksum_are_refused(change: Callable[[dict[str, Tensor]], None], tmp_path: Path) -> None:
    adapter, _ = saved(tmp_path)
    tensors = lora_state_dict(adapter)
    change(tensors)
    file = forged(tmp_path / "hostile.safetensors", tensors, adapter.facts.to_json())
    with pytest.raises(B4MError):
        load_adapter(file)


def test_a_file_with_an_enormous_layer_is_refused_before_its_basis_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = tiny.small_adapter(rank=1, **FACTS)
    tensors = {key: value.half() for key, value in lora_state_dict(adapter).items()}
    key = next(key for key in tensors if key.endswith("lora_up.weight"))
    tensors[key] = torch.zeros(3_000_000, 2, dtype=torch.float16)
    file = forged(tmp_path / "hostile.safetensors", tensors, adapter.facts.to_json())
    monkeypatch.setattr(
        "b4m_core.basis._cosine_table", lambda order: pytest.fail(f"a table of order {order} was begun") if order > 10**6 else None
    )
    with pytest.raises(B4MError):
        load_adapter(file)


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_a_path_without_a_file_is_refused_in_a_sentence(kind: str, tmp_path: Path) -> None:
    with pytest.raises(B4MError):
        load_adapter(tmp_path / "missing.safetensors" if kind == "missing" else tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="there are no pipes among files")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    for place in (tmp_path / "pipe.safetensors", Path("/dev/zero")):
        with pytest.raises(B4MError, match=f"{place.name} is no ordinary file but a pipe or a device"):
            load_adapter(place)


@pytest.mark.parametrize("losses", [[[1.0]], [[]], [[1.0, 2.0]], [[1.0, 2.0, 3.0], [4.0]], [[1.0, 2.0, 3.0, 4.0]]])
def test_losses_of_another_shape_are_damaged_facts(losses: list[list[float]], tmp_path: Path) -> None:
    _, raw = saved(tmp_path)
    facts = json.loads(parts(raw)[0]["__metadata__"]["b4m"])
    with pytest.raises(B4MError, match="facts in this file are damaged"):
        Facts.from_json(json.dumps({**facts, "losses": losses}))


@pytest.mark.parametrize("megabytes", [2, 90])
def test_facts_of_many_megabytes_are_refused_at_once(megabytes: int, tmp_path: Path) -> None:
    _, raw = saved(tmp_path)
    header, data = parts(raw)
    facts = json.loads(header["__metadata__"]["b4m"])
    losses = ", ".join(["[1.0, 2.0, 3.0]"] * (megabytes * 10**6 // 16))
    header["__metadata__"]["b4m"] = json.dumps({**facts, "losses": []}).replace('"losses": []', f'"losses": [{losses}]')
    forged_file = tmp_path / "broken.safetensors"
    forged_file.write_bytes(assemble(header, data))
    before = time.process_time()
    with pytest.raises(B4MError, match="broken.safetensors.* MB"):
        load_adapter(forged_file)
    assert time.process_time() - before < 1


def test_a_large_set_of_pictures_keeps_a_header_that_can_be_read() -> None:
    concept = Concept.of("snq", "bear", tuple(f"{number} {'word ' * 400}" for number in range(5000)))
    assert len(concept.prompts) == 200 and len(Facts("content", 2, content=concept).to_json()) < 1 << 20
