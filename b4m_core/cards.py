"""What other tools show of an adapter: the header entries of their model cards and tag lists, and the text that goes
with a prompt.

``modelspec.*`` is Stability's specification, ``ss_*`` and ``sshs_*`` are kohya's, which A1111 and Forge read too.
"""

import json
from collections.abc import Mapping

from .layers import CONVOLUTIONS
from .metadata import Concept, Facts
from .models import family_named

THUMBNAIL = "modelspec.thumbnail"
Shapes = Mapping[str, tuple[int, int]]
_LEAST_SPLIT = 16
"""A1111 and Forge cut all tags of a file into words of three letters or more where the mean tag has so many."""


def card(facts: Facts, shapes: Shapes, *, title: str, kind: str, module: str, hint: str, rank: int, data_hash: str) -> dict[str, str]:
    """The header entries for a file called ``title`` with factors of ``rank``, whose data has the sha256
    ``data_hash``.
    """
    concepts = concepts_of(facts)
    entries = {
        "modelspec.sai_model_spec": "1.0.1",
        **family_named(facts.family).header(kind, shapes),
        "modelspec.title": title,
        "modelspec.description": description(facts),
        "modelspec.usage_hint": f"Use the trigger words. {hint}",
        "modelspec.trigger_phrase": activation_text(facts),
        "modelspec.tags": f"b4m, {facts.role}",
        "modelspec.prediction_type": "v" if facts.prediction == "v_prediction" else "epsilon",
        "modelspec.hash_sha256": "0x" + data_hash,
        "ss_output_name": title,
        "ss_network_module": module,
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(float(rank)),
        "ss_sd_model_name": facts.base_name,
        "ss_steps": str(facts.steps),
        "ss_seed": str(facts.settings.get("seed", "")),
        "ss_learning_rate": str(facts.settings.get("learning_rate", "")),
        "ss_optimizer": "b4m_core.RiemannianAdamW" if facts.role == "together" else "torch.optim.AdamW",
        "ss_num_train_images": str(sum(len(concept.prompts) for concept in concepts)),
        "ss_tag_frequency": json.dumps(_tag_frequency(concepts), ensure_ascii=False),
        "sshs_model_hash": data_hash,
    }
    if facts.layers == CONVOLUTIONS:
        entries["ss_network_args"] = json.dumps({"conv_dim": str(rank), "conv_alpha": str(float(rank))})
    if resolution := str(facts.settings.get("resolution", "")):
        entries |= {"modelspec.resolution": f"{resolution}x{resolution}", "ss_resolution": f"({resolution}, {resolution})"}
    return entries


def concepts_of(facts: Facts) -> list[Concept]:
    """Content and style, those that there are."""
    return [concept for concept in (facts.content, facts.style) if concept is not None]


def activation_text(facts: Facts) -> str:
    """The trigger and class words of all concepts, as a prompt takes them."""
    return ", ".join(filter(None, (concept.words() for concept in concepts_of(facts))))


def description(facts: Facts) -> str:
    """What the adapter is, in plain words."""
    model = facts.base_name or family_named(facts.family).title
    content, style = (f" ({concept.words()})" if concept and concept.words() else "" for concept in (facts.content, facts.style))
    told = {
        "content": f"A subject{content}, learned from pictures of it",
        "style": f"A style{style}, learned from pictures in it",
        "together": f"A subject{content} and a style{style}, trained on together",
        "merged": f"A subject{content} and a style{style}, trained apart and merged",
    }
    return f"{told[facts.role]}, with B4M on {model}."


def _tag_frequency(concepts: list[Concept]) -> dict[str, dict[str, int]]:
    """Tags and how often each came, by data set, as kohya has them: first the trigger words.

    They stand as tags of their own, since of prompts A1111 and Forge would show single words of letters alone, and a
    trigger such as w@z never. Class words are cut into their words where the mean tag would be too long for them. A
    concept without words has its prompts.
    """
    sets = {concept.words() or "pictures": _tags(concept) for concept in concepts}
    triggers = {concept.trigger for concept in concepts if concept.trigger}
    if triggers and _too_long(sets):
        sets = {
            name: {word: count for tag, count in tags.items() for word in ([tag] if tag in triggers else tag.split())}
            for name, tags in sets.items()
        }
    return {**sets, "": {"b4m": 1}} if triggers and _too_long(sets) else sets


def _too_long(sets: Mapping[str, Mapping[str, int]]) -> bool:
    """Whether A1111 and Forge would cut these tags up."""
    tags = {tag for each in sets.values() for tag in each}
    return sum(map(len, tags)) >= _LEAST_SPLIT * len(tags) > 0


def _tags(concept: Concept) -> dict[str, int]:
    if words := [word for word in (concept.trigger, concept.class_word) if word]:
        return dict.fromkeys(words, max(1, len(concept.prompts)))
    return {prompt: concept.prompts.count(prompt) for prompt in concept.prompts}
