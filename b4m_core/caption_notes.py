"""What is said about the captions of a set: how many there are, where the trigger is, and which say nothing or too much."""

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import B4MError
from .picture_kinds import listed, shown

_PLACEHOLDERS = ("trigger", "class", "name")
_BRACES = re.compile(r"\{(\w+)\}")
_SAYS_NOTHING = re.compile(
    r"[\W\d_]*((img|image|dsc[nf]?|pxl|dcim|mvimg|p|photo|foto|pic|picture|bild|download|unnamed|untitled|unbenannt|screenshot|"
    r"bildschirmfoto|capture|scan|ref|reference|file|frame|page|copy|kopie|whatsapp|signal|telegram|fb|received|original|final|"
    r"temp|tmp|test|new|neu|export|asset|at|am|pm|of|wa|edit|edited|large|small|hd|comfyui|b4m)[\W\d_]*)*",
    re.IGNORECASE,
)
_HEXADECIMAL = re.compile(r"(?=.*\d)[0-9a-f\-_ ]{8,}|[A-Za-z0-9\-_]{20,}")
_STYLE_WORDS = frozenset(
    "woodcut watercolor watercolour aquarelle etching engraving linocut oil acrylic gouache pastel charcoal ink pencil sketch drawing"
    " painting illustration comic manga anime cartoon mosaic collage fresco pixel voxel lowpoly render cubist cubism impressionist"
    " impressionism expressionist baroque ukiyo ukiyoe artdeco deco nouveau minimalist vintage retro noir neon graffiti stencil"
    " style".split()
)


@dataclass(frozen=True)
class Told:
    """One picture's caption: where it comes from is ``own`` (the artist's), or else the node's pattern."""

    name: str
    stem: str
    caption: str
    own: bool


def require_pattern(pattern: str) -> None:
    """Raise :class:`B4MError` for a placeholder in the node's caption that nothing fills in."""
    unknown = [name for name in _BRACES.findall(pattern) if name.lower() not in _PLACEHOLDERS]
    if unknown:
        near = difflib.get_close_matches(unknown[0].lower(), _PLACEHOLDERS, 1, 0.5)
        advice = f"write {{{near[0]}}}" if near else "there are {trigger}, {class} and {name}"
        raise B4MError(f"Nothing fills in {{{shown(unknown[0])}}} in the caption: {advice}.")


def summary(told: Sequence[Told], trigger: str) -> str:
    """ "10 pictures, 9 captions, the trigger is in 8"."""
    count, own = len(told), sum(each.own for each in told)
    pictures = f"{count} picture{'' if count == 1 else 's'}"
    captions = f", {own or 'no'} caption{'' if own == 1 else 's'}"
    return pictures + captions + (f", the trigger is in {sum(has(each.caption, trigger) for each in told)}" if trigger else "")


def caption_notes(told: Sequence[Told], trigger: str, class_word: str, pattern: str, empty: Sequence[str]) -> list[str]:
    """Sentences on captions that are missing, empty, without the trigger, or made from names that do not help."""
    made = [each for each in told if not each.own]
    blank = [each.name for each in told if not each.caption]
    braces = {word for each in told if each.own for word in _BRACES.findall(each.caption)}
    notes = []
    if made and len(made) < len(told):
        given = "one made from their names" if "{name}" in pattern.lower() else f'"{made[0].caption}"'
        notes.append(f"Without a caption of their own: {listed([each.name for each in made])}. They get {given}.")
    if empty:
        notes.append(f"The captions of these are empty: {listed(list(empty))}. They get the node's.")
    if blank:
        notes.append(f"Nothing is said about {listed(blank)}: write a caption, or a trigger and a class word.")
    if braces:
        words = ", ".join(f"{{{shown(word)}}}" for word in sorted(braces))
        notes.append(f"In captions, nothing fills in {words}: it is read as it stands.")
    if "{name}" in pattern.lower() and made:
        notes += _made_from_names(made, trigger, class_word)
    return notes + _about_trigger(told, trigger)


def plain_text_note(captions: Sequence[str]) -> list[str]:
    """For the command line, whose text encoders know no weights and embeddings."""
    marked = [caption for caption in captions if re.search(r"\([^()]*:[\d.]+\)|\bembedding:", caption)]
    if not marked:
        return []
    return [f'Weights such as (word:1.2) and embeddings are read as plain text here: "{shown(marked[0])}". The nodes follow them.']


def has(caption: str, trigger: str) -> bool:
    """Whether a caption has the trigger as a word of its own; capitals do not matter to the text encoders."""
    return bool(trigger) and bool(re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", caption, re.IGNORECASE))


def _about_trigger(told: Sequence[Told], trigger: str) -> list[str]:
    without = [each.name for each in told if not has(each.caption, trigger)]
    if not trigger:
        return ["There is no trigger word, so prompts cannot call what is learned by a name of its own: everything like it changes."]
    if len(without) == len(told):
        return [f"The trigger {shown(trigger)} is in no caption, so it is not learned: write {{trigger}} into the captions."]
    return [f"Without the trigger {shown(trigger)}: {listed(without)}."] if without else []


def _made_from_names(made: Sequence[Told], trigger: str, class_word: str) -> list[str]:
    """The captions that came from file names, shown; names that say nothing, or what should be learned."""
    shown_captions = "; ".join(f'"{shown(each.caption)}"' for each in made[:12]) + ("; ..." if len(made) > 12 else "")
    notes = [f"Captions made from file names: {shown_captions}."]
    nothing = [each.name for each in made if _SAYS_NOTHING.fullmatch(each.stem) or _HEXADECIMAL.fullmatch(each.stem)]
    if nothing:
        notes.append(f"These names do not say what is in the picture: {listed(nothing)}. Rename them, or write a caption beside each.")
    words = [set(re.findall(r"[^\W\d_]{3,}", each.stem.lower())) for each in made]
    often = Counter(word for each in words for word in each)
    style = _STYLE_WORDS | {word.lower() for word in (trigger, *class_word.split()) if word}
    common = {word for word, count in often.items() if count == len(made) >= 3 and not _SAYS_NOTHING.fullmatch(word)}
    told = sorted((often.keys() & style) | common)
    if told:
        names = [each.name for each, found in zip(made, words, strict=True) if found & set(told)]
        notes.append(f"These names name the style ({listed(told)}), and what a caption names is not learned: {listed(names)}. Rename them.")
    return notes
