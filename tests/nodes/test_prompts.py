"""Prompts follow the words of the sets; nodes that are bypassed or muted give what one expects, or say so."""

from __future__ import annotations

import importlib
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_faces import layers_of

Trio = tuple[Any, Any, Any]


def pictures(trigger: str, class_word: str = "bird", seed: int = 0) -> Any:
    made = importlib.import_module("b4m_pack.b4m_core.pictures")
    images = [np.random.default_rng(seed).random((64, 64, 3))]
    return made.from_arrays(images, trigger=trigger, class_word=class_word, pattern="a {trigger} {class}")


def adapter_of(core: ModuleType, host: ModuleType, mini: Trio, role: str) -> Any:
    concept = importlib.import_module("b4m_pack.b4m_core.metadata").Concept
    facts: dict[str, Any] = {"content": concept("fox", "animal")} if role != "style" else {}
    facts |= {"style": concept("ink", "")} if role != "content" else {}
    return core.Adapter.fresh(layers_of(host, core, mini[0]), core.Facts(role, 2, **facts))


def drawn(kind: str, mode: int, name: str = "adapter") -> dict[str, Any]:
    """The drawing of a graph in which the node 9 gets `name` from the node 5."""
    nodes = [{"id": 5, "type": kind, "mode": mode}, {"id": 9, "type": "X", "mode": 0, "inputs": [{"name": name, "link": 3}]}]
    return {"workflow": {"nodes": nodes, "links": [[3, 5, 0, 9, 0, "B4M_ADAPTER"]]}}


def test_a_prompt_follows_the_pictures_and_the_adapter(pack: ModuleType, core: ModuleType, host: ModuleType, mini: Trio) -> None:
    ask = pack.B4MPrompt.execute
    content, style = pictures("snq"), pictures("w@z", "")
    assert ask("a {content} on the {beach|hill}, {Style}", None, content, style).result[0] == "a snq bird on the {beach|hill}, w@z style"
    both = adapter_of(core, host, mini, "merged")
    assert ask("a {content} in {style}", both).result[0] == "a fox animal in ink style"
    assert ask("a {content} in {style}", both, pictures("new")).result[0] == "a new bird in ink style"
    assert ask("{style}", None, None, pictures("", "watercolor")).result[0] == "watercolor style"
    assert ask("plain  text,\nas it is").result[0] == "plain  text,\nas it is"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{style}", "There is no style whose words stand for {style}"),
        ("a {contnet}", "write {content}"),
        ("{content}", "neither a trigger nor a class word"),
    ],
)
def test_what_cannot_be_filled_in_is_a_sentence(pack: ModuleType, error: type[Exception], text: str, sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        pack.B4MPrompt.execute(text, None, pictures("", "") if "nt}" in text else None)


@pytest.mark.parametrize(
    ("role", "written", "shown"),
    [
        ("content", "a {content} in snow", "a snq bird in snow"), ("content", "{trigger} {class}", "snq bird"),
        ("content", "", "a snq bird"),
        ("style", "a house in {style}", "a house in snq style"), ("together", "{content}, {style}", "snq bird, w@z style"),
        ("together", "", "a snq bird in w@z style"),
    ],
)  # fmt: skip
def test_samples_follow_the_words_of_the_sets(role: str, written: str, shown: str) -> None:
    session = importlib.import_module("b4m_pack.nodes.session")
    plan = SimpleNamespace(role=role, pictures=pictures("snq"), others=(pictures("w@z", "", 1),))
    assert session.in_words(written, plan) == shown


def test_a_sample_of_a_content_cannot_ask_for_a_style(error: type[Exception]) -> None:
    session = importlib.import_module("b4m_pack.nodes.session")
    with pytest.raises(error, match="no style whose words stand for {style} in sample_prompt"):
        session.in_words("{content} in {style}", SimpleNamespace(role="content", pictures=pictures("snq"), others=()))


def test_the_contact_sheet_paints_the_words_of_its_sets(
    pack: ModuleType, core: ModuleType, host: ModuleType, mini: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    painted: list[str] = []

    def sample(self: Any, prompt: str, **_: Any) -> Any:
        painted.append(prompt)
        return torch.zeros(64, 64, 3)

    monkeypatch.setattr(host.HostBaseModel, "sample", sample)
    sets = pictures("snq"), pictures("w@z", "", 1)
    words = {"prompts": "a {content} in {style}\n{style}", "size": 64, "seed": 1, "steps": 1, "cfg": 1.0}
    output = pack.B4MContactSheet.execute(*mini, adapter_of(core, host, mini, "content"), *sets, **words)
    assert set(painted) == {"a snq bird in w@z style", "w@z style"}
    assert "This is the content alone" in str(output.ui)


@pytest.mark.parametrize(("mode", "word"), [(4, "bypassed"), (2, "muted")])
def test_a_training_that_is_switched_off_is_said_where_its_adapter_is_used(
    pack: ModuleType, core: ModuleType, host: ModuleType, mini: Trio, mode: int, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = SimpleNamespace(unique_id="9", prompt=None, extra_pnginfo=drawn("B4MTrainTogether", mode))
    for node in (pack.B4MSaveAdapter, pack.B4MApplyAdapter):
        monkeypatch.setattr(node, "hidden", hidden, raising=False)
    alone = adapter_of(core, host, mini, "content")
    for output in (pack.B4MSaveAdapter.execute(alone, f"off_{word}", False), pack.B4MApplyAdapter.execute(mini[0], alone, 1.0, 1.0)):
        assert f"B4MTrainTogether is {word}, so this is the content alone" in str(output.ui.as_dict())
    both = adapter_of(core, host, mini, "merged")
    assert pack.B4MApplyAdapter.execute(mini[0], both, 1.0, 1.0).ui is None
    assert "alone" not in str(pack.B4MSaveAdapter.execute(both, f"on_{word}", False).ui.as_dict())


def test_a_graph_drawn_otherwise_says_nothing_and_never_fails(host: ModuleType) -> None:
    on = drawn("B4MTrainTogether", 0)
    newer = {"workflow": {**drawn("T", 4)["workflow"], "links": [{"id": 3, "origin_id": 5, "target_id": 9}]}}
    for extra in (None, {}, {"workflow": None}, {"workflow": {"nodes": [1, {}], "links": [None, []]}}, on):
        assert host.switched_off(SimpleNamespace(unique_id="9", extra_pnginfo=extra), "adapter") == ""
    assert host.switched_off(SimpleNamespace(unique_id="9", extra_pnginfo=newer), "adapter") == "T is bypassed"
    assert host.switched_off(SimpleNamespace(unique_id="1:9", extra_pnginfo=newer), "adapter") == ""
    assert host.switched_off(SimpleNamespace(unique_id=None), "adapter") == ""
