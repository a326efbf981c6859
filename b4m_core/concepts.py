"""Two concepts that must be told apart: what is certainly wrong with them is refused in a sentence, what may be meant is noted."""

import difflib
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .errors import B4MError
from .metadata import Concept
from .picture_kinds import listed, shown
from .pictures import PictureSet

_END = "</w>"  # of a word, in CLIP's vocabulary
_RARE = ("ohwx", "nlwx", "nmwx", "mswx", "scwx", "kprs", "knw", "ncds", "snf", "hns", "smw", "pbb", "phc", "kts", "slv", "nrf", "csw")
"""Pieces from the end of the vocabulary, of which a picture shows nothing that people know."""
_KNOWN_RANK = 40_000  # its pieces are numbered by how often they came
_EVERYDAY_RANK = 20_000
_WRONG_KIND = {"content": "contents", "style": "styles"}
_RIGHT_KIND = {"content": "other styles", "style": "other contents"}


@dataclass(frozen=True)
class Vocabulary:
    """How CLIP's text encoders read: ``pieces`` of a text (the last of a word ends in ``</w>``), and every piece's rank."""

    pieces: Callable[[str], list[str]]
    ranks: Mapping[str, int]


def trigger_notes(trigger: str, class_word: str, vocabulary: Vocabulary) -> list[str]:
    """Sentences on a trigger that means something already, or that comes apart in the tokenizer."""
    if not trigger:
        return []
    told = shown(trigger)
    if trigger.casefold() == class_word.casefold():
        return [f"The trigger and the class word are both {told}: what is learned goes to every {told}."]
    if re.search(r"[()\[\]{}]", trigger):
        return [f"The trigger {told} has brackets, which prompts read as weights: use letters alone."]
    pieces = vocabulary.pieces(trigger)
    words = [piece.removesuffix(_END) for piece in pieces]
    ranks = [vocabulary.ranks.get(piece, 0) for piece in pieces]
    advice = f"A word that stays whole and means little, such as {suggestion(trigger, vocabulary)}, is learned more easily."
    if len(pieces) == 1 and _is_known(words[0], ranks[0]):
        return [f"The model knows {told} already, so learning changes what it means. {advice}"]
    everyday = [len(word) >= 2 and rank < _EVERYDAY_RANK and word.isalpha() for word, rank in zip(words, ranks, strict=True)]
    if len(pieces) > 1 and all(everyday) and max(map(len, words)) >= 3 and any(re.search("[aeiouy]", word) for word in words):
        return [f"The text encoders read {told} as {' + '.join(words)}, which the model knows already. {advice}"]
    if len(pieces) >= 3:
        parts = " + ".join(words[:8]) + (" ..." if len(words) > 8 else "")
        return [f"The text encoders read {told} in {len(pieces)} pieces: {parts}. {advice}"]
    return []


def suggestion(trigger: str, vocabulary: Vocabulary) -> str:
    """Of some rare words that stay whole, the most like a trigger."""
    whole = [word for word in _RARE if word + _END in vocabulary.ranks and word != trigger.lower()]
    return max(whole, key=lambda word: difflib.SequenceMatcher(None, trigger.lower(), word).ratio(), default=_RARE[0])


def check_apart(role: str, pictures: PictureSet, auxiliary: Sequence[PictureSet], correspondence: str) -> list[str]:
    """Notes on a content or a style and its auxiliary sets. Raises :class:`B4MError` where these are the pictures that are
    taught, or of the kind that would train the wrong half."""
    notes = _about_kind(role, auxiliary, correspondence)
    _require_others(pictures, auxiliary)
    return notes


def check_together(
    content: PictureSet,
    style: PictureSet,
    taught: tuple[Concept | None, Concept | None],
    content_auxiliary: Sequence[PictureSet],
    style_auxiliary: Sequence[PictureSet],
    *,
    correspondence: str = "output_preservation",
) -> list[str]:
    """Notes on a content and a style that are trained together; ``taught`` is what their adapters learned, None for what is
    yet to be trained, and ``correspondence`` what the auxiliary sets do in any training of these sets.

    Raises :class:`B4MError` for one trigger for both, the same pictures for both, exchanged sets, auxiliary sets that
    are the pictures that are taught, and those of the kind that would train the wrong half.
    """
    names = content.trigger, style.trigger
    if names[0] and names[0].casefold() == names[1].casefold():
        raise B4MError(
            f"The content and the style have the same trigger word, {shown(names[0])}, so no prompt can tell them apart: give one of "
            "them another and train it again."
        )
    _require_in_place(names, taught)
    shared = _pixels(content) & _pixels(style)
    if len(shared) in (len(_pixels(content)), len(_pixels(style))):
        raise B4MError("The content and the style have the same pictures: choose another folder for one of them.")
    notes = ["Some pictures are in the content's set and in the style's: each then learns both."] if shared else []
    for each, wanted, what in ((content, taught[0], "content"), (style, taught[1], "style")):
        if wanted is not None and wanted.trigger and each.trigger.casefold() != wanted.trigger.casefold():
            told = shown(each.trigger) or "no word"
            notes.append(f"The {what} adapter learned the trigger {shown(wanted.trigger)}, and these {what} pictures have {told}.")
    for role, sets in (("content", content_auxiliary), ("style", style_auxiliary)):
        notes += _about_kind(role, sets, correspondence)
        for each in (content, style):
            _require_others(each, sets)
    return notes


def same_trigger_note(content: Concept | None, style: Concept | None) -> list[str]:
    """A note for a merge of a content and a style that one word calls."""
    if content is None or style is None or not content.trigger or content.trigger.casefold() != style.trigger.casefold():
        return []
    told = shown(content.trigger)
    return [f"Content and style have the same trigger word, {told}: a prompt calls both at once; the sliders still part them."]


def _is_known(word: str, rank: int) -> bool:
    """Whether a whole piece of the vocabulary is a word, told by how often it came and by its vowels."""
    return word.isalpha() and (rank < _KNOWN_RANK or len(re.findall("[aeiou]", word)) >= 2)


def _require_in_place(names: tuple[str, str], taught: tuple[Concept | None, Concept | None]) -> None:
    """Raise B4MError where the content's pictures have the style adapter's word and the other way round."""
    if taught[0] is None or taught[1] is None:
        return
    wanted = taught[0].trigger.casefold(), taught[1].trigger.casefold()
    found = names[0].casefold(), names[1].casefold()
    if all(wanted) and wanted[0] != wanted[1] and found == wanted[::-1]:
        raise B4MError(
            f"The pictures are exchanged: content_pictures got those of {shown(names[0])}, which is the style, and style_pictures those "
            f"of {shown(names[1])}. Swap the two wires."
        )


def _require_others(pictures: PictureSet, auxiliary: Sequence[PictureSet]) -> None:
    """Raise :class:`B4MError` where an auxiliary set has a picture that is to be learned."""
    own = _pixels(pictures)
    for each in auxiliary:
        if own & _pixels(each):
            name = each.class_word or each.pictures[0].name
            raise B4MError(
                f"The auxiliary set {shown(name)} holds pictures that are to be learned, and auxiliary pictures show what is to stay as it "
                "is: take them out, or choose another folder."
            )


def _about_kind(role: str, auxiliary: Sequence[PictureSet], correspondence: str) -> list[str]:
    wrong = [each.class_word or each.pictures[0].caption for each in auxiliary if each.kind == _WRONG_KIND[role]]
    if not wrong:
        return []
    beginning = f"The auxiliary pictures of the {role} are other {role}s ({listed(wrong, 3)}), and it wants {_RIGHT_KIND[role]}"
    if correspondence == "multi_correspondence":
        raise B4MError(f"{beginning}: with multi_correspondence they would train the wrong half. Change kind on B4M Auxiliary Pictures.")
    return [f"{beginning}: change kind on B4M Auxiliary Pictures unless you mean it."]


def _pixels(pictures: PictureSet) -> set[str]:
    """The pictures of a set by their pixels alone."""
    return {
        hashlib.sha256(f"{picture.pixels.shape}".encode() + np.ascontiguousarray(picture.pixels).data).hexdigest()
        for picture in pictures.pictures
    }
