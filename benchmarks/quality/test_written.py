"""The contest's trainings as files, against what was trained and against the product."""

import dataclasses
from pathlib import Path

import pytest
import torch

from b4m_core import Adapter, load_adapter, merge
from b4m_core.diffusers_folder import DiffusersFolder

from . import concepts
from .choose import OURS
from .concepts import Split
from .example_sheet import EMBEDDED, file_of
from .families import FAMILIES, Adapters
from .grouped import Factors, GroupedNetwork, Segment
from .methods import Contest
from .references import Studio
from .written import factors_of, write_files

RANK = 4
ONE_PAIR = Split(("teddy bear",), ("stained glass",))
APART = dataclasses.replace(OURS, rank=RANK)


@pytest.fixture(scope="module")
def contest() -> Contest:
    """Two steps on one content and on one style, with as little beside them as there can be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(concepts, "AUXILIARY_PICTURES", 1)
        patch.setattr(concepts, "AUXILIARY_STYLES", concepts.AUXILIARY_STYLES[:1])
        contest = Contest(Studio(EMBEDDED, torch.device("cpu")), {}, ONE_PAIR, (0,), most_steps=2)
        contest.prepare([APART])
    return contest


@pytest.fixture(scope="module")
def both(contest: Contest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Adapter, Adapter]:
    """The content and the style as their files say them."""
    folder = tmp_path_factory.mktemp("examples")
    write_files(contest, APART, folder)
    return load_adapter(file_of(folder, "content", "teddy bear")), load_adapter(file_of(folder, "style", "stained glass"))


def predicted(net: GroupedNetwork, factors: Factors | None) -> torch.Tensor:
    net.wear(1, [] if factors is None else [Segment(0, 1, factors)])
    noisy, context, pooled = inputs(net)
    with torch.no_grad():
        found = net(noisy, torch.tensor([500]), context, pooled)
    net.wear(1, [])
    return found


def inputs(net: GroupedNetwork) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    config, generator = net.network.config, torch.Generator().manual_seed(0)
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    shapes = ((1, 4, 16, 16), (1, 77, config.cross_attention_dim), (1, pooled))
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)  # type: ignore[return-value]


def test_a_training_starts_where_the_products_does(contest: Contest, both: tuple[Adapter, Adapter]) -> None:
    net = contest.studio.learner
    fresh = Adapters.fresh(FAMILIES["free"], net, RANK, 1, seed=0)
    theirs = Adapter.for_unet(DiffusersFolder(EMBEDDED).unet, both[0].facts)
    for stack, paths in zip(fresh.learned, net.names, strict=True):
        for place, path in enumerate(paths):
            for name, part in (("content_up", "A"), ("content_down", "D"), ("style_up", "B"), ("style_down", "C")):
                assert torch.equal(stack[name][place, 0], getattr(theirs.layers[path], part))


def test_the_files_predict_what_was_trained(contest: Contest, both: tuple[Adapter, Adapter]) -> None:
    net = contest.studio.learner
    base, trained = predicted(net, None), predicted(net, contest.merge(APART).factors(frozenset(), net.dtype))
    merged = merge(*both)
    noisy, context, pooled = inputs(net)
    unet = DiffusersFolder(EMBEDDED).unet
    merged.attach(unet)
    sizes = torch.tensor([[128.0, 128.0, 0.0, 0.0, 128.0, 128.0]])
    with torch.no_grad():
        loaded = unet(noisy, 500, encoder_hidden_states=context, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}).sample
    moved = (trained - base).norm()
    assert moved > 1e-3 * base.norm()
    assert (loaded - trained).norm() < 1e-2 * moved
    assert (predicted(net, factors_of([merged], net)) - loaded).norm() < 1e-3 * moved


def test_the_files_say_what_they_were_taught(both: tuple[Adapter, Adapter]) -> None:
    content, style = (adapter.facts for adapter in both)
    assert content.content is not None and content.content.words() == "snq toy"
    assert content.content.prompts[0] == "a photo of a snq toy in the snow"
    assert style.style is not None and style.style.prompts[0] == "a house on the beach in w@z style"
    assert (content.rank, content.steps, content.settings["batch_size"], content.settings["correspondence"]) == (
        RANK,
        2,
        4,
        "output_preservation",
    )
    assert [adapter.alone() for adapter in both] == ["content", "style"]


def test_a_file_is_an_ordinary_lora_of_what_was_learned(contest: Contest, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    write_files(contest, APART, tmp_path)
    tensors = load_file(file_of(tmp_path, "content", "teddy bear"))
    assert {key.split(".", 1)[1] for key in tensors} == {"alpha", "lora_down.weight", "lora_up.weight"}
    assert all(RANK in tensor.shape for key, tensor in tensors.items() if "lora" in key.split(".", 1)[1])
