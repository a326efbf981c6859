"""What is fixed before anything is measured: the split of the held-out contents and styles, the words, the reference pictures, the noises.

Development and test share no content and no style, and the embedded model never saw any of them. Everything that is tuned is tuned on the
development pairs with the first judge; everything that is reported is read off the test pairs by the second judge.
"""

from dataclasses import dataclass

from benchmarks.world.contents import load_contents

DEVELOPMENT_CONTENTS = ("penguin", "watermelon", "rocket", "guitar")
DEVELOPMENT_STYLES = ("blueprint", "lego", "thermal")
TEST_CONTENTS = ("fox", "flamingo", "doughnut", "european castle", "tractor", "teddy bear")
TEST_STYLES = ("stained glass", "woodcut", "knitted", "crayon")
MORE_CONTENTS = ("elephant", "butterfly", "birthday cake", "cactus", "crown", "teapot")
MORE_STYLES = ("japanese print", "game boy", "film negative", "patchwork", "chocolate")

CONTENT_TRIGGER = "#1672 #336"  # the tokens of "snq"
STYLE_TRIGGER = "#342 #287 #345"  # the tokens of "w@z"

CONTENT_PLACES = ("snow", "grass", "table", "road")  # of the four photographs of a content
STYLE_PICTURES = (("house", "beach"), ("car", "desert"), ("owl", "forest"), ("sunflower", "city"))  # of the four pictures of a style

# The six prompts: places that no reference shows, in three wordings, one of which (the first) the references use.
PROMPTS = (
    ("mountains", "{thing} {place} in {style} style"),
    ("flowers", "{thing} {place} in {style} style"),
    ("room", "{thing} {place} in {style} style"),
    ("night", "{thing} {place} in {style} style"),
    ("sea", "a {style} style picture of {thing} {place}"),
    ("brick wall", "{thing} {place} , {style} style"),
)
NOISES = (11, 12, 13, 14)  # seeds of the starting noises, shared by all methods and pairs
TRAINING_SEEDS = (0, 1, 2)
REFERENCE_SEED = 7

# The auxiliary pictures: painted by the base model itself, of contents and styles that it knows.
AUXILIARY_STYLES = ("watercolor", "comic", "mosaic", "neon", "oil painting", "line art", "pixel art", "paper cutout")
AUXILIARY_CONTENTS = ("house", "owl", "car", "robot", "tree", "cat", "red apple", "sunflower")
AUXILIARY_PLACES = ("grass", "beach", "snow", "table", "forest", "road", "city", "desert")
AUXILIARY_PICTURES = 8  # of one set


@dataclass(frozen=True)
class Split:
    """One half of the contest: every content with every style."""

    contents: tuple[str, ...]
    styles: tuple[str, ...]

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """(content, style) as positions in ``contents`` and ``styles``."""
        return [(c, s) for c in range(len(self.contents)) for s in range(len(self.styles))]


DEVELOPMENT = Split(DEVELOPMENT_CONTENTS, DEVELOPMENT_STYLES)
TEST = Split(TEST_CONTENTS, TEST_STYLES)
LARGE = Split((*TEST_CONTENTS, *MORE_CONTENTS), (*TEST_STYLES, *MORE_STYLES))  # all that development has not seen; TEST is a part of it


def class_word(content: str) -> str:
    """Of a content, or of a kind that only its members are listed of, like "tree"."""
    known = {each.name: each.class_word for each in load_contents()}
    return known.get(content) or next(word for name, word in known.items() if name.endswith(f" {content}"))


def subject(content: str) -> str:
    """The content in a prompt: trigger and class word, never its name."""
    return f"a {CONTENT_TRIGGER} {class_word(content)}"
