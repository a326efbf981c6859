"""The results as a table and as a chart."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from .clock import Reading
from .network import TERAFLOPS

BAR, GAP, LEFT, WIDTH, RIGHT = 18, 8, 420, 460, 150
OURS, THEIRS, INK, PAPER = (226, 87, 76), (150, 158, 170), (30, 34, 40), (255, 255, 255)


def table(readings: Sequence[Reading], facts: Mapping[str, Any]) -> str:
    """Markdown: one line for every reading, under the device's name."""
    lines = [
        f"{facts['device']}, torch {facts['torch']}, {facts['dtype']}; one own and three auxiliary pictures a step unless it says more.",
        "",
        "| | px | ms a step | of the ceiling | GiB allocated | GiB reserved | GiB taken on the card |",
        "|---|---|---|---|---|---|---|",
    ]
    for reading in readings:
        share = ""
        if facts["real"] and reading.name == "B4M" and reading.size in TERAFLOPS and "ceiling" in facts:
            share = f"{TERAFLOPS[reading.size] / reading.milliseconds * 1000 / facts['ceiling'] * 100:.0f} %"
        memory = [f"{value:.1f}" if value else "" for value in (reading.allocated, reading.reserved, reading.driver)]
        lines.append(f"| {reading.name} | {reading.size or ''} | {reading.milliseconds:.2f} | {share} | {' | '.join(memory)} |")
    return "\n".join(lines) + "\n"


def chart(readings: Sequence[Reading], facts: Mapping[str, Any], file: Path) -> None:
    """Bars of the milliseconds a step takes, one group for every size, ours in colour; a logarithm would hide what matters."""
    groups = [[reading for reading in readings if reading.size == size] for size in sorted({r.size for r in readings if r.size})]
    height = sum(len(group) * (BAR + GAP) + 44 for group in groups) + 40
    picture = Image.new("RGB", (LEFT + WIDTH + RIGHT, height), PAPER)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    draw.text((12, 10), f"Milliseconds a step, {facts['device']}", INK, font)
    top = 40
    for group in groups:
        draw.text((12, top), f"{group[0].size} px", INK, font)
        top += 24
        longest = max(reading.milliseconds for reading in group)
        for reading in sorted(group, key=lambda one: one.milliseconds):
            length = max(1, round(reading.milliseconds / longest * WIDTH))
            draw.text((12, top), reading.name, INK, font)
            draw.rectangle((LEFT, top, LEFT + length, top + BAR), OURS if reading.name.startswith("B4M") else THEIRS)
            draw.text((LEFT + length + 8, top), f"{reading.milliseconds:.1f}", INK, font)
            top += BAR + GAP
        top += 20
    picture.save(file)
