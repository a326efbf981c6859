"""The contest's trainings written as the product's files: so the two can be held against each other (test_written.py)."""

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from b4m_core import Adapter, save_adapter
from b4m_core.adapter import fresh_layer
from b4m_core.diffusers_folder import DiffusersFolder
from b4m_core.metadata import Concept, Facts
from b4m_core.settings import TrainingSettings

from . import concepts
from .example_sheet import EMBEDDED, file_of
from .families import Adapters
from .grouped import Factors, GroupedNetwork
from .methods import Apart, Contest
from .references import SIZE, content_set, style_set

WORDS = {concepts.CONTENT_TRIGGER: "snq", concepts.STYLE_TRIGGER: "w@z"}  # what people write for those tokens


def write_files(contest: Contest, apart: Apart, folder: Path) -> None:
    """One file for every finished training of the contest's first seed: free, and alone, so an ordinary LoRA of what was learned."""
    steps = apart.steps if contest.most_steps is None else min(apart.steps, contest.most_steps)
    settings = TrainingSettings(
        steps=steps,
        rank=apart.rank,
        learning_rate=apart.content_rate,
        batch_size=apart.rows[0],
        gradient_accumulation_steps=1,
        resolution=SIZE,
        seed=contest.seeds[0],
        split="free",
        correspondence="output_preservation",
        file_dtype="float16",
    )
    common = Facts(
        role="content",
        rank=apart.rank,
        base=DiffusersFolder(EMBEDDED).network_fingerprint,
        base_name="the B4M mini model",
        prediction="epsilon",
        steps=steps,
        settings=settings.as_dict(),
        file_dtype=settings.file_dtype,
        split=settings.split,
    )
    names, studio = contest.studio.learner.names, contest.studio
    for number, name in enumerate(contest.split.contents):
        concept = Concept("snq", concepts.class_word(name), _readable(content_set(studio, name)[1]))
        adapter = adapter_of(contest.done[apart, "content"], names, number, dataclasses.replace(common, content=concept))
        save_adapter(adapter, file_of(folder, "content", name))
    for number, name in enumerate(contest.split.styles):
        facts = dataclasses.replace(common, role="style", style=Concept("w@z", "", _readable(style_set(studio, name)[1])))
        save_adapter(adapter_of(contest.done[apart, "style"], names, number, facts), file_of(folder, "style", name))


def adapter_of(adapters: Adapters, names: list[list[str]], number: int, facts: Facts) -> Adapter:
    """Training ``number`` of the contest's free family as the product's adapter: the same start, the same product, other letters."""
    layers = {}
    for stack, paths in zip(adapters.learned, names, strict=True):
        for place, path in enumerate(paths):
            up, down = (stack[f"{facts.role}_{factor}"][place, number].detach().float().cpu() for factor in ("up", "down"))
            layers[path] = fresh_layer(facts, path, len(up), down.shape[1])
            layers[path].load_lora_factors(up, down, facts.role)
    return Adapter(layers, facts)


def _readable(captions: list[str]) -> tuple[str, ...]:
    """The captions with words for the triggers' tokens."""
    for tokens, word in WORDS.items():
        captions = [caption.replace(tokens, word) for caption in captions]
    return tuple(captions)


@torch.no_grad()
def factors_of(adapters: list[Adapter], net: GroupedNetwork) -> Factors:
    """The product's adapters in the form in which the contest's network wears many."""
    ups: list[Tensor] = []
    downs: list[Tensor] = []
    for paths in net.names:
        pairs = [[adapter.layers[path].lora_factors() for adapter in adapters] for path in paths]
        ups.append(torch.stack([torch.stack([up for up, _ in layer]) for layer in pairs]).to(net.device))
        downs.append(torch.stack([torch.stack([down for _, down in layer]) for layer in pairs]).to(net.device))
    return Factors(ups, downs)
