"""The table of styles: what captions call them, how to draw them, and which the denoiser never sees."""

from collections.abc import Callable

from torch import Tensor

from . import styles_drawn as drawn
from . import styles_held_out as held_out
from . import styles_made as made

Style = Callable[[Tensor, Tensor], Tensor]

PHOTO = 0  # index of "no style": the picture as rendered

SEEN: dict[str, Style | None] = {
    "photo": None,
    "pixel art": made.pixel_art,
    "halftone": drawn.halftone,
    "pencil sketch": drawn.pencil_sketch,
    "line art": drawn.line_art,
    "neon": drawn.neon,
    "old photograph": made.old_photograph,
    "mosaic": made.mosaic,
    "stone relief": made.stone_relief,
    "watercolor": drawn.watercolor,
    "poster": drawn.poster,
    "cross stitch": made.cross_stitch,
    "low poly": drawn.low_poly,
    "oil painting": drawn.oil_painting,
    "paper cutout": drawn.paper_cutout,
    "chalkboard": drawn.chalkboard,
    "ink wash": drawn.ink_wash,
    "comic": drawn.comic,
    "glitch": drawn.glitch,
    "embroidery": made.embroidery,
    "xray": made.xray,
    "pop art": drawn.pop_art,
    "beads": made.beads,
    "old television": made.old_television,
    "gold relief": made.gold_relief,
    "vaporwave": drawn.vaporwave,
    "topographic map": drawn.topographic_map,
    "rippled water": made.rippled_water,
    "screen print": drawn.screen_print,
    "risograph": drawn.risograph,
    "night vision": made.night_vision,
    "pastel": drawn.pastel,
    "woven": made.woven,
    "led display": made.led_display,
    "engraving": drawn.engraving,
    "hologram": made.hologram,
    "polaroid": made.polaroid,
    "postage stamp": made.postage_stamp,
    "clay": made.clay,
    "cracked fresco": made.cracked_fresco,
}

HELD_OUT: dict[str, Style] = {
    "blueprint": held_out.blueprint,
    "stained glass": held_out.stained_glass,
    "thermal": held_out.thermal,
    "knitted": held_out.knitted,
    "woodcut": held_out.woodcut,
    "crayon": held_out.crayon,
    "lego": held_out.lego,
    "japanese print": held_out.japanese_print,
    "game boy": held_out.game_boy,
    "film negative": held_out.film_negative,
    "patchwork": held_out.patchwork,
    "chocolate": held_out.chocolate,
}

STYLES: dict[str, Style | None] = {**SEEN, **HELD_OUT}
NAMES = tuple(STYLES)

SYNONYMS: dict[str, tuple[str, ...]] = {
    "pencil sketch": ("pencil drawing", "sketch"),
    "line art": ("line drawing", "outline"),
    "neon": ("neon sign",),
    "old photograph": ("sepia photograph",),
    "mosaic": ("tile mosaic",),
    "watercolor": ("watercolour", "watercolor painting"),
    "cross stitch": ("cross stitched",),
    "oil painting": ("oil paint",),
    "paper cutout": ("cut paper", "sticker"),
    "chalkboard": ("chalk", "blackboard"),
    "ink wash": ("ink painting",),
    "comic": ("comic book", "cartoon"),
    "embroidery": ("embroidered",),
    "xray": ("radiograph",),
    "beads": ("perler beads",),
    "old television": ("crt television",),
    "gold relief": ("golden relief",),
    "stone relief": ("carved stone",),
    "woven": ("woven basket",),
    "led display": ("led screen",),
    "clay": ("claymation", "plasticine"),
    "cracked fresco": ("fresco",),
    "topographic map": ("contour map",),
    "low poly": ("polygon",),
    "pixel art": ("8bit",),
    "halftone": ("newspaper print",),
    "postage stamp": ("stamp",),
    "rippled water": ("water reflection",),
    "pastel": ("pastel chalk",),
}


def seen_styles() -> list[int]:
    """Indices the denoiser is trained on, without the photo."""
    return list(range(1, len(SEEN)))


def held_out_styles() -> list[int]:
    return list(range(len(SEEN), len(NAMES)))
