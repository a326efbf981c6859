"""The papers: links that lead somewhere, lines that can be read, a README that is short, and drawings that are true."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("docs", "adapters", "mini", "benchmarks", "web", "workflows", ".github")
PAPERS = sorted([*ROOT.glob("*.md"), *(paper for folder in FOLDERS for paper in (ROOT / folder).rglob("*.md"))])
MOST_WORDS, LONGEST_LINE = 900, 120
LINK = re.compile(r"\[[^\[\]]*\]\(([^()\s]+)\)")
SHIPPED = {
    "__init__.py", "adapters", "b4m_core", "locales", "mini", "nodes", "web", "workflows", "pyproject.toml", "requirements.txt",
    "CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md",
}  # fmt: skip


def words(text: str) -> int:
    """All that white space parts counts as a word: prose, code, links, and the bars and dashes of tables and lists."""
    return len(text.split())


def without_code(text: str) -> str:
    """The text less fenced and indented code and code in a line, whose brackets are no links."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"(?<=\n\n)(?: {4}.*\n)+", "", text)
    return re.sub(r"`[^`]+`", "", text)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(paper: Path) -> list[str]:
    """Relative links that lead to no file, or to a heading that is not there."""
    found = []
    for link in LINK.findall(without_code(paper.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = _folder(paper, name) / name if name else paper
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            found.append(link)
    return found


def _folder(paper: Path, name: str) -> Path:
    """What a link is relative to: ComfyUI's page takes the pictures of a node's help from the folder of all of them."""
    is_help = paper.parent.parent == ROOT / "web" / "docs" and name.endswith(".webp")
    return paper.parent.parent if is_help else paper.parent


def long_lines(text: str) -> list[int]:
    """The numbers of lines that are too long; a row of a table cannot be broken."""
    lines = enumerate(text.splitlines(), start=1)
    return [number for number, line in lines if len(line) > LONGEST_LINE and not line.startswith("|")]


def named(paper: Path) -> str:
    return paper.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("paper", PAPERS, ids=named)
def test_every_link_of_a_paper_leads_to_a_file_and_a_heading(paper: Path) -> None:
    assert broken_links(paper) == []


@pytest.mark.parametrize("paper", PAPERS, ids=named)
def test_every_line_of_a_paper_but_a_tables_row_fits_on_a_page(paper: Path) -> None:
    assert long_lines(paper.read_text(encoding="utf-8")) == []


def test_the_readme_can_be_read_in_a_few_minutes() -> None:
    assert words((ROOT / "README.md").read_text(encoding="utf-8")) <= MOST_WORDS


@pytest.mark.parametrize("link", ["gone.md", "paper.md#gone", "#gone", "folder/gone.png"])
def test_the_search_for_broken_links_finds_one(tmp_path: Path, link: str) -> None:
    paper = tmp_path / "paper.md"
    paper.write_text(f"# A heading, that is\n\n![a picture\nof two lines]({link}) and [here](#a-heading-that-is), `[no](link)`\n\n")
    assert broken_links(paper) == [link]


def test_a_long_line_is_found_and_a_long_row_of_a_table_is_not() -> None:
    assert long_lines("short\n" + "x" * (LONGEST_LINE + 1) + "\n| " + "x" * LONGEST_LINE) == [2]


def test_the_workflows_run_all_the_tests_and_publish_nothing_by_themselves() -> None:
    files = {file.stem: yaml.safe_load(file.read_text()) for file in (ROOT / ".github/workflows").glob("*.yml")}
    steps = [step.get("run") for step in files["ci"]["jobs"]["everything"]["steps"]]
    assert "python b4m.py test" in steps
    assert list(files["publish"][True]) == ["workflow_dispatch"]  # YAML reads the key `on` as true


def test_the_archive_holds_what_the_pack_needs_and_no_more() -> None:
    try:
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only a git checkout knows its files")
    rules = (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    left_out = {rule.strip("/") for rule in rules if rule and not rule.startswith("#")}
    assert {Path(name).parts[0] for name in listed} - left_out == SHIPPED


def drawn_floors() -> list[list[str]]:
    """The floors of b4m_core in docs/architecture.md, the highest first."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    drawing = text.split("    b4m_core/ ", 1)[1].split("\n\n", 1)[0].splitlines()[1:]
    return [[name.strip(" /") for name in re.split(r"  +", line.strip())[0].split(",")] for line in drawing]


def imports_within(file: Path) -> set[str]:
    """The modules and folders of b4m_core, by their first name, that a file in it imports."""
    inside = file.relative_to(ROOT / "b4m_core").parent.parts
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            where = inside[: len(inside) - node.level + 1]
            modules = [node.module] if node.module else [alias.name for alias in node.names]
            found |= {(*where, *module.split("."))[0] for module in modules}
    return found


def test_every_module_is_drawn_on_a_floor_and_imports_none_from_above() -> None:
    place = {name: number for number, floor in enumerate(drawn_floors()) for name in floor}
    core = ROOT / "b4m_core"
    ahead = [name for name in place if not (core / name).is_dir() and not (core / f"{name}.py").is_file()]
    if ahead:
        pytest.skip(f"the drawing is ahead of the code: {', '.join(ahead)}")
    files = {file: file.relative_to(core).with_suffix("").parts[0] for file in core.rglob("*.py")}
    assert set(files.values()) - {"__init__"} == set(place), "docs/architecture.md draws other modules than there are"
    for file, name in files.items():
        if name != "__init__":
            above = sorted(other for other in imports_within(file) if place[other] < place[name])
            assert not above, f"{file.relative_to(core)} reaches up to {', '.join(above)}"
