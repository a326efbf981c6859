"""What the host does not check: values of widgets that come by a wire, choices, and numbers beyond every range."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from comfy_api.v0_0_2 import io

HALF, NULL = "\ud83d", "a\0b"
TEXTS = [None, 5, 2.5, True, b"snq", ["a", 3], {"a": 1}, HALF, NULL, "x" * 10**6]
NUMBERS = [None, "5", "nan", b"5", True, [5], {}, float("nan"), float("inf"), -float("inf"), 2**40, -(2**40), 10**400, 1e300, object()]
CHOICES = [None, 0, "", "no such choice", ["retrain"], {}, True, HALF, NULL, "x" * 10**6]
SWITCHES = [None, 1, 0.0, "true", [], {}, object()]
WRONG = {io.Int.Input: NUMBERS, io.Float.Input: NUMBERS, io.Boolean.Input: SWITCHES, io.Combo.Input: CHOICES, io.String.Input: TEXTS}


def widgets(pack: ModuleType) -> Iterator[tuple[Any, Any, list[Any]]]:
    for node in pack.NODES:
        for each in node.GET_SCHEMA().inputs:
            for kind, wrong in WRONG.items():
                if isinstance(each, kind) and not getattr(each, "force_input", False):
                    yield node, each, wrong


def test_no_widget_of_any_node_takes_a_value_of_another_kind_or_range(pack: ModuleType, error: type[Exception]) -> None:
    """Given alone, so that what is wrong is found before anything else is looked at."""
    tried = 0
    for node, widget, wrong in widgets(pack):
        for value in wrong:
            if node.GET_SCHEMA().is_input_list and (value is None or isinstance(value, list)):
                continue  # a list is what such a node is given; see test_lists.py
            if widget.id in ("folder", "filename") and value in ("", "no such choice", "x" * 10**6):
                continue  # what lies in folders is asked of the folders; see test_folders.py
            if isinstance(widget, io.Int.Input) and isinstance(value, int) and widget.min <= value <= widget.max:
                continue  # a seed may be large
            if isinstance(widget, io.Combo.Input) and "1e-4" in widget.options and value == 0 and value is not False:
                continue  # a rate may be given as a number
            with pytest.raises(error) as caught:
                node.execute(**{widget.id: value})
            sentence = str(caught.value)
            assert "\n" not in sentence and len(sentence) < 400 and sentence.isprintable(), sentence
            sentence.encode()
            tried += 1
    assert tried > 500


def test_a_node_that_takes_lists_checks_each_value(pack: ModuleType, error: type[Exception]) -> None:
    with pytest.raises(error, match="use_masks is 1: it must be true or false"):
        pack.B4MPictures.execute(["(demo content)"], ["snq"], ["penguin"], ["{trigger}"], [1])
    with pytest.raises(error, match="The text in caption holds a character that cannot be written down"):
        pack.B4MPictures.execute(["(demo content)"], ["snq"], ["penguin"], ["a {trigger}", HALF], [True])


def test_a_choice_that_came_after_the_start_is_taken(pack: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = importlib.import_module(f"{pack.__name__}.guard")

    class Growing(io.ComfyNode):
        options = ["first"]

        @classmethod
        def define_schema(cls) -> io.Schema:
            return io.Schema(node_id="Growing", inputs=[io.Combo.Input("which", options=list(cls.options))])

        @classmethod
        def execute(cls, which: str) -> str:  # type: ignore[override]
            return which

    node = guard.guarded(Growing)
    Growing.options.append("second")
    assert node.execute("second") == "second"


def test_whole_numbers_of_other_libraries_and_floats_that_are_whole_count(pack: ModuleType) -> None:
    import numpy as np

    checked = importlib.import_module(f"{pack.__name__.rpartition('.')[0]}.b4m_core.checked")
    assert [checked.whole(value, "steps", 1, 9) for value in (5, np.int64(5), 5.0, np.float32(5))] == [5] * 4
    assert all(type(checked.whole(value, "steps", 1, 9)) is int for value in (np.int64(5), 5.0))
    assert type(checked.number(np.float32(0.5), "rate", 0, 1)) is float


def test_more_prompts_than_a_sheet_can_show_are_refused_before_anything_is_painted(pack: ModuleType, error: type[Exception]) -> None:
    with pytest.raises(error, match="The contact sheet has 65 prompts"):
        pack.B4MContactSheet.execute(None, None, None, None, None, None, "a house\n" * 65, 192, 0, 1, 5.0)
