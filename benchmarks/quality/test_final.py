"""The last contest and the roads: what the pages say is what the files say."""

from pathlib import Path

import numpy as np
import pytest

from . import concepts
from .ablate import read as read_lines
from .final_report import by_concept, tables
from .report import Result, read, read_seeds
from .roads_table import tables as road_tables
from .statistics import difference, interval

RESULTS, DOCS = Path(__file__).parent / "results", Path(__file__).resolve().parents[2] / "docs"
NAMES = {  # in the page, for what the file calls otherwise
    "ours as before": "ours as shipped",
    "NP-LoRA, kept": "NP-LoRA on the two LoRAs",
    "true pictures": "*true pictures*",
}


@pytest.fixture(scope="module")
def results() -> dict[str, Result]:
    return read(RESULTS / "final", concepts.LARGE)


def test_the_large_split_holds_the_test_pairs_and_nothing_of_development() -> None:
    large, few, development = concepts.LARGE, concepts.TEST, concepts.DEVELOPMENT
    assert len(large.pairs) == 108 and len(set(large.contents)) == 12 and len(set(large.styles)) == 9
    assert large.contents[: len(few.contents)] == few.contents and large.styles[: len(few.styles)] == few.styles
    assert not set(large.contents) & set(development.contents) and not set(large.styles) & set(development.styles)


def test_the_page_of_the_contest_has_the_numbers_of_the_files(results: dict[str, Result]) -> None:
    page = (DOCS / "quality.md").read_text(encoding="utf-8")
    for name, result in results.items():
        called = NAMES.get(name, name.replace(", kept", ""))
        line = next(each for each in page.splitlines() if each.startswith(f"| {called} |"))
        content, style, place, share = (f"{value:.3f}".lstrip("0") for value in result.shares("second"))
        assert f"| {content} | {style} | {place} | " in line and share in line, name


def short(value: float, sign: str = "") -> str:
    """As the pages write a share."""
    return f"{value:{sign}.3f}".replace("0.", ".", 1) if abs(value) < 0.9995 else f"{value:{sign}.3f}"


def told(ours: np.ndarray, theirs: np.ndarray) -> tuple[str, str]:
    """The difference with its interval, and the pairs won of those that differ, as the pages write them."""
    found = difference(ours, theirs)
    return f"{short(found.mean, '+')} ({short(found.low, '+')} to {short(found.high, '+')})", f"{found.won} of {found.won + found.lost}"


def test_the_page_has_the_rows_with_learned_words_and_convolutions(results: dict[str, Result]) -> None:
    page = (DOCS / "quality.md").read_text(encoding="utf-8").splitlines()
    found = read_seeds(RESULTS / "words", concepts.LARGE)
    larger = found.pop("ours, larger start, words and convolutions")
    assert larger.marks["second"].shape == (3, 12, 9, 24, 3)
    roads = (DOCS / "roads.md").read_text(encoding="utf-8")
    gain = told(larger.cells("second"), found["ours, words and convolutions"].cells("second"))[0]
    assert f"({short(larger.shares('second')[3])} for .631, {gain.replace(' (', ', ').removesuffix(')')})" in roads
    assert len(found) == 12
    for name, result in found.items():
        seeds = 3 if result.about["league"] == "words and convolutions" else 1
        assert result.marks["second"].shape == (seeds, 12, 9, 24, 3)
        line = next(each for each in page if each.startswith(f"| {name.replace(', kept', '')} | {seeds} |"))
        before = results[name.split(", words")[0].split(", conv")[0]]
        for judge in ("second", "first"):
            assert told(result.cells(judge), before.cells(judge)[:seeds])[0] in line, name
        content, style, place, share = (short(value) for value in result.shares("second"))
        low, high = (short(value) for value in interval(result.cells("second")))
        assert f"| {content} | {style} | {place} | **{share}** | {low} to {high} |" in line, name
        mine = found[f"{'ours + joint' if result.about['league'].startswith('pair') else 'ours'}, {name.split(', ')[-1]}"]  # type: ignore[attr-defined]
        if result is not mine:
            assert line.endswith(f"| {', '.join(told(mine.cells('second'), result.cells('second')))} |"), name


def test_the_page_compares_the_merge_with_what_is_trained_for_each_pair(results: dict[str, Result]) -> None:
    page = " ".join((DOCS / "quality.md").read_text(encoding="utf-8").split())
    found = read_seeds(RESULTS / "words", concepts.LARGE)
    merged = {judge: found["ours, words and convolutions"].cells(judge)[:1] for judge in ("second", "first")}
    on_both, loras = (found[f"{name}, words and convolutions"] for name in ("one LoRA on both, rank 32, kept", "two LoRAs, kept + joint"))
    gain, pairs = told(merged["second"], on_both.cells("second"))
    assert f"ours has {gain}, {pairs} pairs; first judge {told(merged['first'], on_both.cells('first'))[0]}" in page
    plain, two = results["one LoRA on both, rank 32, kept"], found["two LoRAs, kept, words and convolutions"]
    for name, mine, other in (
        ("Two LoRAs merged have", {judge: two.cells(judge)[:1] for judge in merged}, on_both),
        ("ours merged has", merged, plain),
    ):
        second, first = (told(mine[judge], other.cells(judge))[0] for judge in ("second", "first"))
        assert f"{name} {second}; first judge {first}" in page
    assert f"with a joint stage it has {told(merged['second'], loras.cells('second'))[0]}" in page
    stage = found["ours + joint, words and convolutions"].cells("second")
    lost = told(stage, merged["second"])[0].replace(" (", ", ")
    assert f"after the joint stage {short(stage.mean())}, before it {short(merged['second'].mean())} (first seed; {lost}" in page


def test_the_page_has_the_claim_that_failed() -> None:
    page = (DOCS / "quality.md").read_text(encoding="utf-8")
    found, before = read_seeds(RESULTS / "mirror", concepts.LARGE), read_seeds(RESULTS / "words", concepts.LARGE)
    assert set(found) == {"ours, words, convolutions and mirror", "two LoRAs, kept, words, convolutions and mirror"}
    for name, result in found.items():
        line = next(each for each in page.splitlines() if each.startswith(f"| {name.replace(', kept', '')} |"))
        low, high = (short(value) for value in interval(result.cells("second")))
        content, style, place, share = (short(value) for value in result.shares("second"))
        assert f"| {content} | {style} | {place} | **{share}** | {low} to {high} | {short(result.shares('first')[3])} |" in line
    whole = " ".join(page.split())
    for name in ("ours", "two LoRAs, kept"):
        changed, plain = found[f"{name}, words, convolutions and mirror"], before[f"{name}, words and convolutions"]
        second, first = (
            told(changed.cells(judge), plain.cells(judge))[0].replace(" (", ", ").removesuffix(")") for judge in ("second", "first")
        )
        assert f"({second}; first judge {first})" in whole, name
    contents, looks = (0, 6), [concepts.LARGE.styles.index(style) for style in ("crayon", "japanese print", "patchwork")]
    single = read(RESULTS / "single", concepts.Split(concepts.LARGE.contents[::6], ("crayon", "japanese print", "patchwork")))
    ours = found["ours, words, convolutions and mirror"]
    shares = {
        judge: (
            single["ours, words, convolutions, single pictures"].cells(judge).mean(),
            *(each.cells(judge)[0][list(contents)][:, looks].mean() for each in (ours, before["ours, words and convolutions"])),
        )
        for judge in ("second", "first")
    }
    alone, mirrored, usual = (f"{short(second)} / {short(first)}" for second, first in zip(*shares.values(), strict=True))
    assert f"without the mirror have {alone}, with it {mirrored}; steps of 4 + 4 have {usual}" in whole
    at = {(point[0], point[1]): point[-1] for point in ours.about["frontier"]}  # type: ignore[attr-defined]
    best = max(at, key=lambda strengths: at[strengths])
    words = f"{short(at[1.0, 1.0])} at (1, 1) and {short(at[best])} at its best, ({short(best[0])[:2]}, {best[1]})"
    assert words in whole


def test_the_page_of_the_second_base_has_the_numbers_of_the_files() -> None:
    page = (DOCS / "quality" / "second_base.md").read_text(encoding="utf-8").splitlines()
    found = read_seeds(RESULTS / "second", concepts.LARGE)
    assert len(found) == 8
    for name, result in found.items():
        seeds = 3 if result.about["league"] == "merge" else 1
        assert result.marks["second"].shape == (seeds, 12, 9, 24, 3)
        line = next(each.replace("*", "") for each in page if each.startswith((f"| {name.replace(', kept', '')} |", f"| *{name}* |")))
        low, high = (short(value) for value in interval(result.cells("second")))
        wanted = [*map(short, result.shares("second")), f"{low} to {high}", short(result.shares("first")[3])]
        assert f"| {' | '.join(wanted)} |" in line, name
        mine = found["ours" if seeds == 3 else "ours + joint"]
        if result is not mine and result.about["league"] != "frame":
            assert line.endswith(f"| {', '.join(told(mine.cells('second'), result.cells('second')))} |"), name


def test_the_page_of_the_second_base_has_every_trial() -> None:
    page = (DOCS / "quality" / "second_base.md").read_text(encoding="utf-8").replace("*", "")
    lines = [line for file in ("tuning.jsonl", "strengths/tuning.jsonl") for line in read_lines(RESULTS / "second" / file)]
    assert len(lines) == 6 * 3 + 3 * 3
    for line in lines:
        first, second = (short(line[judge]["all three"]) for judge in ("first", "second"))
        assert (f"{first} / {second}" if "setting" in line else second) in page, line["name"]


def test_every_row_has_the_pairs_seeds_and_pictures_that_are_said(results: dict[str, Result]) -> None:
    for result in results.values():
        seeds = 1 if result.about["league"] == "pair" else 3
        assert result.marks["second"].shape == (seeds, 12, 9, 24, 3) and result.marks["first"].shape == result.marks["second"].shape


def test_the_report_compares_each_row_with_ours(results: dict[str, Result]) -> None:
    lines = tables(results)
    ours = next(line for line in lines if line.startswith("| ours |"))
    loras = next(line for line in lines if line.startswith("| two LoRAs, kept |"))
    expected = (results["ours"].cells("second") - results["two LoRAs, kept"].cells("second")).mean()
    assert f"{expected:+.3f} (" in loras and ours.count("ahead") == 0
    contents, styles = by_concept(results["ours"])
    assert contents.startswith("tractor 0.17") and styles.startswith("film negative 0.00")


def test_the_roads_are_told_with_the_difference_to_what_was_before() -> None:
    lines = read_lines(RESULTS / "roads.jsonl")
    printed = road_tables(lines)
    assert {line["kind"] for line in lines} == {line.removeprefix("### ") for line in printed if line.startswith("### ")}
    falling = next(line for line in printed if line.startswith("| decay |") and "0.758" in line)
    before, after = (
        np.array(next(each for each in lines if (each["kind"], each["name"]) == ("content", name))["found"][0]["cells"]["second"])
        for name in ("as before", "decay")
    )
    assert f"{(after - before).mean():+.3f} (" in falling


def test_the_page_of_the_roads_has_the_numbers_of_the_files() -> None:
    page = (DOCS / "roads.md").read_text(encoding="utf-8")
    for line in read_lines(RESULTS / "roads.jsonl"):
        if line["kind"] in ("style", "content", "words and convolutions, start", "words and convolutions"):
            first, second = (f"{line['found'][0][judge]['all three']:.3f}".lstrip("0") for judge in ("first", "second"))
            assert f"{second} / {first}" in page, line["name"]
