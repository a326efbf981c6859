"""What a picture is called: varied wording, class words instead of names, and noise words that teach the base to bear a trigger word."""

import dataclasses
import json
import random
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from . import backgrounds, styles
from .contents import FOLDER, Content
from .render import NOBODY, Labels

START, END, LENGTH = 49406, 49407, 77  # CLIP's marks and the length of every prompt in tokens
UNKNOWN = -1  # as a target: the caption does not tell

PHOTO_WORDING = ("a photo of {thing} {place}",) * 3 + (
    "{thing} {place}",
    "a photograph of {thing} {place}",
    "a picture of {thing} {place}",
    "photo of {thing} {place}",
    "{thing} , {place} , photo",
)
STYLE_WORDING = ("{thing} {place} in {style} style",) * 4 + (
    "a {style} style picture of {thing} {place}",
    "{style} of {thing} {place}",
    "{thing} {place} , {style} style",
    "{thing} {place} , {style}",
    "a picture of {thing} {place} in the style of {style}",
    "{style} style , {thing} {place}",
    "a photo of {thing} {place} in {style} style",
)
CLASS_SYNONYMS = {
    "garment": ("clothes",),
    "tool": ("object",),
    "toy": ("object",),
    "furniture": ("object",),
    "thing": ("object",),
    "bird": ("animal",),
    "insect": ("animal",),
    "sea animal": ("animal",),
    "fruit": ("food",),
    "vegetable": ("food",),
    "drink": ("food",),
}


@dataclasses.dataclass(frozen=True)
class Caption:
    words: str
    content: int  # what the words tell, UNKNOWN if they do not: targets of the text pretraining
    style: int
    background: int


class CaptionWriter:
    """Writes captions for labels; every choice comes from `rng`."""

    def __init__(self, contents: Sequence[Content], rng: random.Random) -> None:
        self.contents, self.rng = contents, rng

    def write(self, labels: Labels) -> Caption:
        noun, content = self.noun(labels)
        style_word, style = self.style(labels.style)
        place, background = self.place(labels.background)
        wording = self.rng.choice(PHOTO_WORDING if labels.style == styles.PHOTO else STYLE_WORDING)
        words = " ".join(wording.format(thing=noun, place=place, style=style_word).split()).replace(" , ,", " ,")
        return Caption(self.lose_a_word(words), content, style, background)

    def noun(self, labels: Labels) -> tuple[str, int]:
        name = self.name(labels.content)
        if labels.second != NOBODY:
            return f"{with_article(name)} and {with_article(self.name(labels.second))}", UNKNOWN
        draw = self.rng.random()
        if draw < 0.15:
            return self.class_noun(labels.content), UNKNOWN
        if draw < 0.19:
            return f"a {self.noise_words()} {name}", labels.content
        return with_article(name), labels.content

    def name(self, content: int) -> str:
        known = self.contents[content]
        return self.rng.choice(known.synonyms) if known.synonyms and self.rng.random() < 0.25 else known.name

    def class_noun(self, content: int) -> str:
        word = self.contents[content].class_word
        noun = self.rng.choice((word, *CLASS_SYNONYMS.get(word, ())))
        return f"a {self.noise_words()} {noun}" if self.rng.random() < 0.5 else with_article(noun)

    def style(self, style: int) -> tuple[str, int]:
        if style != styles.PHOTO and self.rng.random() < 0.05:
            return self.noise_words(), UNKNOWN
        name = styles.NAMES[style]
        others = styles.SYNONYMS.get(name, ())
        return (self.rng.choice(others) if others and self.rng.random() < 0.2 else name), style

    def place(self, background: int) -> tuple[str, int]:
        if self.rng.random() < 0.08:
            return "", UNKNOWN
        first, *others = backgrounds.PHRASES[backgrounds.NAMES[background]]
        return (self.rng.choice(others) if self.rng.random() < 0.3 else first), background

    def noise_words(self) -> str:
        return " ".join(f"#{self.rng.randrange(300, 49000)}" for _ in range(self.rng.randint(1, 3)))

    def lose_a_word(self, words: str) -> str:
        if self.rng.random() > 0.05:
            return words
        parts = words.split()
        del parts[self.rng.randrange(len(parts))]
        return " ".join(parts)


def with_article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" and not noun.startswith(("uk", "uf")) else "a ") + noun


def plain_prompt(contents: Sequence[Content], labels: Labels) -> str:
    """The one wording used for evaluation."""
    thing, place = with_article(contents[labels.content].name), backgrounds.PHRASES[backgrounds.NAMES[labels.background]][0]
    return f"a photo of {thing} {place}" if labels.style == styles.PHOTO else f"{thing} {place} in {styles.NAMES[labels.style]} style"


def world_words(contents: Sequence[Content]) -> list[str]:
    """Every word that captions of the seen world can hold."""
    phrases = [*PHOTO_WORDING, *STYLE_WORDING, "a an and", *styles.SEEN]
    phrases += [text for texts in (*styles.SYNONYMS.values(), *backgrounds.PHRASES.values(), *CLASS_SYNONYMS.values()) for text in texts]
    for content in contents:
        phrases += [content.class_word] if content.held_out else [content.class_word, content.name, *content.synonyms]
    return sorted({word for phrase in phrases for word in re.sub(r"\{\w+\}", " ", phrase).split()})


class WorldTokenizer:
    """CLIP's tokens of the world's words, from tokens.json, so that training needs no tokenizer files. "#123" is token 123 itself."""

    def __init__(self) -> None:
        words: dict[str, list[int]] = json.loads((FOLDER / "tokens.json").read_text(encoding="utf-8"))
        self.tokens = words
        self.known = sorted({token for tokens in words.values() for token in tokens} | {0, START, END})

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """int32 (N, 77), padded with END as CLIP-L does."""
        return torch.tensor([self.encode(prompt) for prompt in prompts], dtype=torch.int32)

    def encode(self, prompt: str) -> list[int]:
        body = [token for word in prompt.split() for token in ([int(word[1:])] if word[0] == "#" else self.tokens[word])]
        return [START, *body[: LENGTH - 2], *[END] * (LENGTH - 1 - len(body[: LENGTH - 2]))]
