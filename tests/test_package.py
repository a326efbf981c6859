"""``pip install .`` without a ComfyUI: what the package holds, what it asks for, and that it works where it was put."""

from __future__ import annotations

import ast
import json
import os
import re
import site
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from b4m_core.options import parser
from launcher.commands import FORWARDED

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NOT_ASKED_FOR = {"torch", "triton", "pillow_jxl"}  # brought by the user, by torch, and by nobody: it is used where it is there
DISTRIBUTION = {"PIL": "pillow"}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment that sees this one's packages, with ours installed as a user would; nothing is fetched."""
    place = tmp_path_factory.mktemp("package") / "venv"
    venv.create(place, with_pip=False)
    found = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    inside = Path(sysconfig.get_path("purelib", vars={"base": str(place), "platbase": str(place)}))
    above = [*site.getsitepackages(), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    (inside / "above.pth").write_text("\n".join(map(str, above)), encoding="utf-8")
    install = ["install", "--no-deps", "--no-build-isolation", "--no-index", "--quiet", str(ROOT)]
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(found), *install], check=True)
    return found


def asked(python: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A call of the new environment's Python, away from the checkout."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([str(python), *words], cwd=folder, env=variables, capture_output=True, text=True, check=False)


INSTALLED = """
import json
from importlib.metadata import files
import b4m_core
print(json.dumps([[str(file).replace("\\\\", "/") for file in files("b4m")], b4m_core.__file__, str(b4m_core.embedded_model())]))
"""


@pytest.fixture(scope="module")
def installed(python: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], Path, Path]:
    """The files of the package, and where its module and its model are found."""
    names, module, model = json.loads(asked(python, tmp_path_factory.mktemp("away"), "-c", INSTALLED).stdout)
    return {name for name in names if not name.endswith(".pyc")}, Path(module), Path(model)


def test_the_package_holds_the_library_and_its_model_and_no_more(installed: tuple[set[str], Path, Path]) -> None:
    names = installed[0]
    ours = {name for name in names if name.startswith("b4m_core/")}
    there = {file.relative_to(ROOT).as_posix() for file in (ROOT / "b4m_core").rglob("*") if file.suffix != ".pyc" and file.is_file()}
    mini = {f"b4m_core/{file.relative_to(ROOT).as_posix()}" for file in (ROOT / "mini").rglob("*") if file.is_file()}
    assert ours == there | mini and "b4m_core/py.typed" in ours
    assert all(name.startswith(("b4m-", "../../../bin/", "../../Scripts/")) for name in names - ours)


def test_the_package_is_imported_from_where_it_was_installed_and_finds_its_model(
    python: Path, installed: tuple[set[str], Path, Path]
) -> None:
    _, module, model = installed
    assert module.is_relative_to(python.parents[1]) and model == module.parent / "mini" and (model / "unet" / "config.json").is_file()


def test_the_installed_command_is_the_module_s(python: Path, tmp_path: Path) -> None:
    command = python.with_name("b4m.exe" if os.name == "nt" else "b4m")
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(command), "list", "no/such"], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "is not there: name a file or a folder" in done.stderr
    assert PROJECT["scripts"] == {"b4m": "b4m_core.commandline:main"}
    assert "from .commandline import main" in (ROOT / "b4m_core/__main__.py").read_text(encoding="utf-8")


TYPED = """
from pathlib import Path

from b4m_core import Adapter, Plan, Progress, RunStore, TrainingSettings, load_adapter, load_folder, load_model, merge, paint, train


def learned(folder: Path) -> Adapter:
    pictures = load_folder(folder, trigger="snq", class_word="cat", pattern="a {trigger} {class}")

    def watch(progress: Progress) -> None:
        reveal_type(progress.losses)

    return train(Plan("content", pictures, (), TrainingSettings(steps=1)), load_model(device="cpu"), RunStore(folder), watch)


both = merge(learned(Path("cat")), load_adapter("ink.safetensors"))
reveal_type(both.facts.role)
TrainingSettings(stepps=1)
paint(load_model(), 3, both)
"""
SKIPPED = ("torch", "numpy", "PIL", "diffusers", "transformers", "safetensors", "einops", "pillow_heif", "tomli", "tomli_w", "triton")


def test_a_user_s_typed_script_is_checked_against_our_types(python: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(TYPED, encoding="utf-8")
    left = "".join(f"[mypy-{name}.*]\nignore_missing_imports = true\nfollow_imports = skip\n" for name in SKIPPED)  # theirs take a minute
    (tmp_path / "mypy.ini").write_text(f"[mypy]\n{left}", encoding="utf-8")
    words = ["-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", "cache", "--python-executable", str(python), "script.py"]
    said = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    plain = said.replace("builtins.", "")
    assert 'type is "list[tuple[float, float, float]]"' in plain and 'type is "str"' in plain
    assert 'Unexpected keyword argument "stepps"' in said and 'Argument 2 to "paint" has incompatible type "int"' in said
    assert "py.typed" not in said and "Found 2 errors in 1 file" in said


def test_building_leaves_nothing_behind_in_the_folder(python: Path) -> None:
    assert not [name for name in ("build", "dist", "b4m.egg-info") if (ROOT / name).exists()]


def imported() -> set[str]:
    """Every package that the library imports, anywhere, beside Python's own."""
    found = set()
    for file in (ROOT / "b4m_core").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names)


def named(requirements: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9_.-]", each)[0].replace("-", "_").lower() for each in requirements}


def test_every_package_that_the_library_imports_is_asked_for() -> None:
    extras = named([each for extra in PROJECT["optional-dependencies"].values() for each in extra])
    wanted = {DISTRIBUTION.get(name, name) for name in imported()} - NOT_ASKED_FOR
    assert wanted - named(PROJECT["dependencies"]) - extras == set()


def test_what_the_pack_asks_for_in_comfyui_is_asked_for_by_the_library_too() -> None:
    lines = [line for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    assert {line.replace("'", '"') for line in lines} <= {each.replace("'", '"') for each in PROJECT["dependencies"]}


def test_the_version_is_the_package_s() -> None:
    assert re.search(r'^VERSION = "(.*)"$', (ROOT / "b4m_core/version.py").read_text(), re.MULTILINE)[1] == PROJECT["version"]  # type: ignore[index]


def test_every_command_of_the_library_is_one_of_b4m_py_too() -> None:
    whole = parser(dict.fromkeys(("train", "repeat", "runs", "generate"), print))
    ours = next(action.choices for action in whole._actions if action.choices)
    assert set(ours) | {"bench"} == set(FORWARDED)


def test_without_torch_the_import_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; import b4m_core"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: b4m_core needs PyTorch") and "pip install torch" in last
