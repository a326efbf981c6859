"""The results as a table and as a chart."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from .clock import Reading
from .network import TERAFLOPS

BAR, GAP, WIDTH, RIGHT = 18, 8, 460, 150
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
    font = ImageFont.load_default(14)
    begin = 28 + round(max((font.getlength(reading.name) for group in groups for reading in group), default=0))
    picture = Image.new("RGB", (begin + WIDTH + RIGHT, height), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((12, 10), f"Milliseconds a step, {facts['device']}", INK, font)
    top = 40
    for group in groups:
        draw.text((12, top), f"{group[0].size} px", INK, font)
        top += 24
        longest = max(reading.milliseconds for reading in group)
        for reading in sorted(group, key=lambda one: one.milliseconds):
            length = max(1, round(reading.milliseconds / longest * WIDTH))
            draw.text((12, top), reading.name, INK, font)
            draw.rectangle((begin, top, begin + length, top + BAR), OURS if reading.name.startswith("B4M") else THEIRS)
            draw.text((begin + length + 8, top), f"{reading.milliseconds:.1f}", INK, font)
            top += BAR + GAP
        top += 20
    picture.save(file)


PANEL, HEAD, BASE = 270, 84, 264
HEADS = {"resolution": "side in pixels", "one kept picture": "side in pixels, one kept picture instead"}


def scaling_chart(points: Sequence[Sequence[Any]], device: str, file: Path) -> None:
    """One panel for everything that was varied, all to one scale: a bar of milliseconds a step, and the GiB reserved written below it."""
    groups = {name: [point for point in points if point[0] == name] for name in dict.fromkeys(point[0] for point in points)}
    width = (PANEL - 30) // max(len(group) for group in groups.values())
    highest = max(point[2] for point in points)
    picture = Image.new("RGB", (12 + PANEL * len(groups), BASE + 56), PAPER)
    draw, font, small = ImageDraw.Draw(picture), ImageFont.load_default(14), ImageFont.load_default(12)
    draw.text((12, 8), f"Milliseconds a step above the bars, GiB reserved below; {device}", INK, font)
    usual = "One own and three auxiliary pictures, the published split, the smallest size, unless a panel says otherwise"
    draw.text((12, 28), usual, INK, small)
    for panel, (name, group) in enumerate(groups.items()):
        draw.text((12 + panel * PANEL, HEAD - 28), HEADS.get(name, name), INK, font)
        for place, (_, number, milliseconds, gibibytes) in enumerate(group):
            left, top = 12 + panel * PANEL + place * width, BASE - round(milliseconds / highest * (BASE - HEAD - 16))
            draw.rectangle((left, top, left + width - 12, BASE), OURS)
            draw.text((left, top - 16), f"{milliseconds:.0f} ms", INK, small)
            draw.text((left, BASE + 6), str(number), INK, font)
            draw.text((left, BASE + 28), f"{gibibytes:.1f} GiB" if gibibytes else "", INK, small)
    picture.save(file)
