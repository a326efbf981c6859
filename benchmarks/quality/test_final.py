"""The last contest and the roads: what the pages say is what the files say."""

from pathlib import Path

import numpy as np
import pytest

from . import concepts
from .ablate import read as read_lines
from .final_report import by_concept, tables
from .report import Result, read
from .roads_table import tables as road_tables

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
        called = NAMES.get(name, name.removesuffix(", kept"))
        line = next(each for each in page.splitlines() if each.startswith(f"| {called} |"))
        content, style, place, share = (f"{value:.3f}".lstrip("0") for value in result.shares("second"))
        assert f"| {content} | {style} | {place} | " in line and share in line, name


def test_the_page_has_the_rows_with_learned_words_of_one_seed() -> None:
    page = (DOCS / "quality.md").read_text(encoding="utf-8")
    found = read(RESULTS / "words", concepts.LARGE)
    assert "ours, words" in found
    for name, result in found.items():
        assert result.marks["second"].shape == (1, 12, 9, 24, 3)
        content, style, place, share = (f"{value:.3f}".lstrip("0") for value in result.shares("second"))
        assert f"| {name.replace(', kept', '')} | {content} | {style} | {place} | **{share}** |" in page, name


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
        if line["kind"] in ("style", "content"):
            first, second = (f"{line['found'][0][judge]['all three']:.3f}".lstrip("0") for judge in ("first", "second"))
            assert f"{second} / {first}" in page, line["name"]
