"""docs/api/README.md: every public name of b4m_core with its signature and docstring. `python -m launcher.api_pages` writes it.

griffe reads the source without importing it, so that the page is the same on every machine.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator

import griffe

from . import places

PAGE = places.PACK / "docs" / "api" / "README.md"
WIDTH = 116
GROUPS = {
    "Pictures": ("load_folder", "from_arrays", "PictureSet", "Picture", "own_auxiliary", "sample_auxiliary"),
    "Base models": ("load_model", "embedded_model", "BaseModel", "NoiseSchedule"),
    "Training": ("TrainingSettings", "Plan", "train", "take", "Progress", "RunStore", "Run"),
    "Adapters": (
        "load_adapter", "save_adapter", "save_in_layout", "read_facts", "merge", "Share", "with_detail", "apart", "resized",
        "lora_state_dict", "split_state_dict", "Adapter", "Facts", "Concept",
    ),
    "Painting": ("paint", "strength_table", "as_image"),
    "The method": ("PartlyLearnableProjection", "RiemannianAdamW"),
    "Errors": ("B4MError",),
}  # fmt: skip
HEAD = """# The names of `b4m_core`

What `from b4m_core import ...` gives, and what may be relied upon: the rest may change with any version. This page is
made of the docstrings (`python -m launcher.api_pages`); [how to use them](../library.md).
"""


def page() -> str:
    """The whole page as Markdown."""
    package = griffe.load("b4m_core", search_paths=[places.PACK], allow_inspection=False)
    parts = [HEAD, "\n".join(_contents(group, names) for group, names in GROUPS.items())]
    for group, names in GROUPS.items():
        parts.append(f"## {group}")
        for name in names:
            parts += _entry(_found(package, name), name, "###")
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _found(package: griffe.Object, name: str) -> griffe.Object:
    """What the package gives by that name; where a module has the same one, it is not meant."""
    imported = package.imports[name].removeprefix(f"{package.name}.")
    found = package[imported]
    return found.final_target if isinstance(found, griffe.Alias) else found


def _contents(group: str, names: Iterable[str]) -> str:
    links = ", ".join(f"[`{name}`](#{name.lower()})" for name in names)
    return textwrap.fill(f"- {group}: {links}", WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _entry(item: griffe.Object, name: str, heading: str) -> Iterator[str]:
    """A function, a class with its public members, or a property."""
    yield f"{heading} {name}" if heading == "###" else f"{heading} `{name}`"
    if isinstance(item, (griffe.Function, griffe.Class)):
        yield "```python\n" + "\n".join(_signature(item)) + "\n```"
    yield _text(item)
    if isinstance(item, griffe.Class):
        for member in item.members.values():
            if member.is_public and not member.is_alias and member.docstring and isinstance(member, (griffe.Function, griffe.Attribute)):
                yield from _entry(member, f"{name}.{member.name}", "####")


def _signature(item: griffe.Function | griffe.Class) -> list[str]:
    """On one line where it fits, else a line for every parameter."""
    word = "class" if isinstance(item, griffe.Class) else "def"
    given = list(_parameters(item.parameters))
    end = f" -> {item.returns}" if isinstance(item, griffe.Function) and item.returns is not None else ""
    whole = f"{word} {item.name}({', '.join(given)}){end}"
    if len(whole) <= WIDTH:
        return [whole]
    return [f"{word} {item.name}(", *(f"    {each}," for each in given), f"){end}"]


def _parameters(parameters: Iterable[griffe.Parameter]) -> Iterator[str]:
    keyword_only = griffe.ParameterKind.keyword_only
    marked = False
    for each in parameters:
        if each.name in ("self", "cls"):
            continue
        if each.kind is griffe.ParameterKind.var_positional:
            marked = True
        elif each.kind is keyword_only and not marked:
            marked = True
            yield "*"
        stars = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}.get(each.kind, "")
        kind = f": {each.annotation}" if each.annotation is not None else ""
        default = f" = {each.default}" if each.default is not None and not stars else ""
        yield f"{stars}{each.name}{kind}{default}"


def _text(item: griffe.Object) -> str:
    """The docstring as Markdown: Sphinx's roles and double backticks become code."""
    said = item.docstring.value if item.docstring else ""
    said = re.sub(r":\w+:`~?([^`<]+)(?:<[^>]*>)?`", lambda found: f"`{found[1].rpartition('.')[2] or found[1]}`", said)
    return textwrap.dedent(said.replace("``", "`"))


def main() -> None:
    """Write the page."""
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
