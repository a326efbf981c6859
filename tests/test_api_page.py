"""docs/api: every public name is there, says what a user must know, and the page is that of the docstrings."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

import b4m_core
from launcher import api_pages

SHAPE = re.compile(r"\([A-Za-z0-9/ ()_]+, [^)]*\)")
NAMES = sorted(set(b4m_core.__all__) - {"__version__"})


def test_the_page_is_what_the_docstrings_say_now() -> None:
    assert api_pages.PAGE.read_text(encoding="utf-8") == api_pages.page(), "make it anew: python -m launcher.api_pages"


def test_every_public_name_has_its_place_on_the_page_once() -> None:
    listed = [name for names in api_pages.GROUPS.values() for name in names]
    assert sorted(listed) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_says_what_it_is_its_shapes_and_its_errors(name: str) -> None:
    found: Any = getattr(b4m_core, name)
    said = inspect.getdoc(found) or ""
    assert len(said) > 20
    if inspect.isfunction(found):
        source = inspect.getsource(found)
        if "raise B4MError" in source:
            assert "Raises :class:`B4MError`" in said
        signature = source[: source.index('"""')]
        if "Tensor" in signature or "ndarray" in signature:
            assert SHAPE.search(said) or "state dict" in said, f"{name} takes or gives tensors and tells no shape"
