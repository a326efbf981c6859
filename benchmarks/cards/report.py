"""What the processes found, as a table: how much faster several cards are, and how far their losses are off."""

from collections.abc import Mapping, Sequence
from typing import Any

Found = Mapping[str, Any]


def furthest(some: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> float:
    """The largest relative difference of the losses of the steps that both have."""
    there = {row[0]: row[1:] for row in others}
    pairs = [(a, b) for row in some if row[0] in there for a, b in zip(row[1:], there[row[0]], strict=True) if a or b]
    return max((abs(a - b) / max(abs(a), abs(b)) for a, b in pairs), default=float("nan"))


def table(found: Found) -> str:
    """Markdown."""
    one, repeated, several, again = (found.get(name, {}) for name in ("one", "repeated", "several", "again"))
    count, alone = several.get("processes", 0), {"ours": one.get("ours", {}), "peft": repeated.get("peft", {})}
    heading = f"{count} x {{device}}, torch {{torch}}, {{network}} at {{size}} px."
    lines = [
        heading.format(**several) if several else "Several processes found nothing.",
        "",
        f"| micro-steps a step | one: ms a step | {count}: ms a step | times | of {count} |",
        "|---|---|---|---|---|",
    ]
    for kind, title in (("ours", "B4M, inside a training"), ("peft", "diffusers + PEFT, DistributedDataParallel")):
        for accumulated, there in several.get(kind, {}).items():
            here = alone[kind].get(accumulated, {})
            if "ms" in there and "ms" in here:
                times = here["ms"] / there["ms"]
                numbers = f"{here['ms']:.1f} | {there['ms']:.1f} | {times:.2f} | {times / count * 100:.0f} %"
                lines.append(f"| {title}, {accumulated} | {numbers} |")
    lines += ["", *_sums(several), *_losses(one, repeated, several, again)]
    return "\n".join(lines) + "\n"


def _sums(several: Found) -> list[str]:
    return [
        f"To agree and add up {step['MB']:.0f} MB in {step['tensors']} tensors: {step['ms']:.2f} ms a step."
        for step in several.get("sums", {}).values()
    ]


def _losses(one: Found, repeated: Found, several: Found, again: Found) -> list[str]:
    def losses(part: Found, kind: str) -> Sequence[Sequence[float]]:
        return next((each["losses"] for each in part.get(kind, {}).values() if "losses" in each), [])

    pairs = [
        ("in double precision, several beside one", losses(several, "exact"), losses(one, "exact")),
        ("several beside one", losses(several, "ours"), losses(one, "ours")),
        ("one beside one once more", losses(repeated, "ours"), losses(one, "ours")),
        ("begun by several, ended by one, beside one", losses(again, "again"), losses(one, "ours")),
    ]
    said = "Losses of {} steps, {}: at most {:.1e} of themselves apart."
    return [said.format(len(some), what, furthest(some, others)) for what, some, others in pairs if some]
