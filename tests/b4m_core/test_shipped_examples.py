"""The adapters that come with the pack, in adapters/: eight contents, eight styles, and any of the sixty-four pairs mixes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from b4m_core import Adapter, load_adapter, merge
from b4m_core.compose import base_note
from b4m_core.diffusers_folder import DiffusersFolder

ROOT = Path(__file__).resolve().parents[2]
FILES = {role: sorted((ROOT / "adapters" / role).glob("*.safetensors")) for role in ("content", "style")}
MOST_BYTES = 24_000_000


@pytest.fixture(scope="module")
def examples() -> dict[str, list[Adapter]]:
    return {role: [load_adapter(path) for path in paths] for role, paths in FILES.items()}


@pytest.fixture(scope="module")
def base() -> DiffusersFolder:
    return DiffusersFolder(ROOT / "mini")


def test_there_are_eight_of_each_in_24_megabytes() -> None:
    assert [len(paths) for paths in FILES.values()] == [8, 8]
    assert sum(path.stat().st_size for paths in FILES.values() for path in paths) <= MOST_BYTES


def test_they_hold_what_was_learned_and_nothing_else(examples: dict[str, list[Adapter]]) -> None:
    for role, adapters in examples.items():
        assert {adapter.facts.role for adapter in adapters} == {role}
        assert {adapter.alone() for adapter in adapters} == {role}
        assert len({adapter.digest() for adapter in adapters}) == 8


def test_they_are_of_one_kind_and_of_the_embedded_model(examples: dict[str, list[Adapter]], base: DiffusersFolder) -> None:
    adapters = [adapter for each in examples.values() for adapter in each]
    assert len({str(sorted(adapter.facts.common().items())) + adapter.facts.basis for adapter in adapters}) == 1
    assert {adapter.facts.base for adapter in adapters} == {base.network_fingerprint}
    assert not any(base_note(adapter, base.network_fingerprint, base.name) for adapter in adapters)
    assert all(concept.words() for adapter in adapters for concept in (adapter.facts.content, adapter.facts.style) if concept is not None)


def test_every_pair_mixes_and_predicts_something_of_its_own(examples: dict[str, list[Adapter]], base: DiffusersFolder) -> None:
    config, generator = base.unet.config, torch.Generator().manual_seed(0)
    text = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    shapes = ((1, 4, 8, 8), (1, 77, config.cross_attention_dim), (1, text))
    noisy, context, pooled = (torch.randn(shape, generator=generator) for shape in shapes)
    conditions = {"text_embeds": pooled, "time_ids": torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]])}
    found = []
    for content in examples["content"]:
        for style in examples["style"]:
            both = merge(content, style)
            both.attach(base.unet)
            with torch.no_grad():
                found.append(base.unet(noisy, 500, encoder_hidden_states=context, added_cond_kwargs=conditions).sample.flatten())
            both.detach()
    predictions = torch.stack(found)
    assert len(predictions) == 64 and torch.isfinite(predictions).all()
    apart = torch.cdist(predictions, predictions).fill_diagonal_(torch.inf)
    assert apart.min() > 1e-4
