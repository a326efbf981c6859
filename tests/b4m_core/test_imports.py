"""What ships stays within its walls: the method never names the host, and nothing that ships can run foreign code or reach the network."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = sorted((ROOT / "b4m_core").rglob("*.py"))
SHIPPED = sorted([ROOT / "__init__.py", *CORE, *(ROOT / "nodes").rglob("*.py")])
HOST = {
    "comfy",
    "comfy_api",
    "comfy_execution",
    "comfy_extras",
    "folder_paths",
    "nodes",
    "execution",
    "server",
    "latent_preview",
    "node_helpers",
}
FORBIDDEN_MODULES = {
    "pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "subprocess", "socket", "ssl", "urllib", "urllib3",
    "requests", "httpx",
    "http", "ftplib", "smtplib", "telnetlib", "ctypes", "pty", "code", "codeop", "runpy", "pip", "huggingface_hub", "multiprocessing",
    "xmlrpc", "socketserver", "websockets", "webbrowser", "imaplib", "nntplib", "poplib", "cffi", "imp", "yaml", "dbm",
    "zipfile", "tarfile", "gdown", "boto3", "paramiko", "git",
}  # fmt: skip
FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.startfile", "os.fork", "os.forkpty", "torch.load", "torch.save",
    "torch.hub", "torch.jit.load", "torch.serialization", "torch.package", "torch.ops.load_library", "torch.classes.load_library",
    "torch.utils.cpp_extension", "torch.utils.model_zoo", "torch.distributed", "np.load", "numpy.load", "numpy.lib.format",
    "breakpoint", "builtins.eval", "builtins.exec", "builtins.compile", "builtins.__import__", "importlib.util", "aiohttp.ClientSession",
    "aiohttp.request", "asyncio.open_connection", "asyncio.start_server", "asyncio.create_subprocess_exec",
    "asyncio.create_subprocess_shell", "shutil.unpack_archive", "comfy.utils.load_torch_file",
}  # fmt: skip
STARTS_WORKERS = {"dask", "distributed", "bokeh"}
"""Dask starts processes and lets them speak to each other, pickled. One module may import it, and that one is imported only when a
person asks the command line for more than one worker: the pack itself, started by a host, never does."""
ENGINE_ROOM, ASKED_FOR_BY = "b4m_core/studio/cluster.py", "b4m_core/studio/command.py"
CALLS_THE_DRIVER = {"b4m_core/fast/native_calls.py": ["import ctypes (line 6)"]}  # torch has no word for what is asked there
SPEAKS_TO_ITS_OWN = "b4m_core/process_group.py"  # the processes of one training that a launcher started; no node imports it
FORBIDDEN_BEGINNINGS = ("os.exec", "os.spawn", "os.posix_spawn", "torch.hub.")


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(module with its leading dots, line) of every import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), node.lineno


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def aliases(tree: ast.AST) -> dict[str, str]:
    """What names in a file stand for: import torch as t; from os import system."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update({each.asname: each.name for each in node.names if each.asname})
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.update({each.asname or each.name: f"{node.module}.{each.name}" for each in node.names})
    return found


def is_forbidden(name: str) -> bool:
    """Whether a whole dotted name is forbidden, or something inside of what is."""
    inside = any(name == each or name.startswith(each + ".") for each in FORBIDDEN_CALLS)
    return inside or name.startswith(FORBIDDEN_BEGINNINGS)


def findings(source: str) -> list[str]:
    """What a shipped file may not hold."""
    tree = ast.parse(source)
    known = aliases(tree)
    found = [f"import {name} (line {line})" for name, line in imports(tree) if name.split(".")[0] in FORBIDDEN_MODULES]
    for node in ast.walk(tree):
        first, _, rest = dotted(node).partition(".")
        name = f"{known.get(first, first)}.{rest}" if rest else known.get(first, first)
        if (
            isinstance(node, ast.Call)
            and dotted(node.func) in ("importlib.import_module", "import_module", "getattr")
            and _foreign_name(node)
        ):
            found.append(f"{dotted(node.func)} (line {node.lineno})")
        if isinstance(node, (ast.Name, ast.Attribute)) and is_forbidden(name):
            found.append(f"{name} (line {node.lineno})")
        if (
            isinstance(node, ast.keyword)
            and node.arg in ("allow_pickle", "trust_remote_code", "shell")
            and getattr(node.value, "value", True)
        ):
            found.append(f"{node.arg} (line {node.value.lineno})")
        if isinstance(node, ast.keyword) and node.arg == "weights_only":
            found.append(f"weights_only (line {node.value.lineno})")
    return found


def _foreign_name(call: ast.Call) -> bool:
    """A name given as text that is itself forbidden: importlib.import_module("pickle"), getattr(os, "system")."""
    texts = [part.value for part in call.args if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    return any(text.split(".")[0] in FORBIDDEN_MODULES or f"os.{text}" in FORBIDDEN_CALLS or text in FORBIDDEN_CALLS for text in texts)


@pytest.mark.parametrize("file", CORE, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_the_method_never_imports_the_host(file: Path) -> None:
    for name, line in imports(ast.parse(file.read_text(encoding="utf-8"))):
        assert name.lstrip(".").split(".")[0] not in HOST, f"{file.name}:{line} imports {name}"
        outside = "." * (len(file.relative_to(ROOT / "b4m_core").parts) + 1)
        assert not name.startswith(outside), f"{file.name}:{line} reaches out of b4m_core with {name}"


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_nothing_that_ships_can_run_foreign_code_or_reach_the_network(file: Path) -> None:
    found = findings(file.read_text(encoding="utf-8"))
    if file.relative_to(ROOT).as_posix() == SPEAKS_TO_ITS_OWN:
        found = [each for each in found if not each.startswith("torch.distributed")]
    assert found == CALLS_THE_DRIVER.get(file.relative_to(ROOT).as_posix(), [])


def test_one_module_imports_what_starts_workers_and_only_a_command_imports_that_module() -> None:
    for file in SHIPPED:
        name = file.relative_to(ROOT).as_posix()
        tree = ast.parse(file.read_text(encoding="utf-8"))
        found = {module.split(".")[0] for module, _ in imports(tree)} & STARTS_WORKERS
        assert not found or name == ENGINE_ROOM, f"{name} imports {found}"
        named = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and "cluster" in [each.name for each in node.names]]
        assert not named or name == ASKED_FOR_BY, f"{name} imports the engine room"
        assert all(node not in tree.body for node in named), "the engine room is imported where it is needed, not at the start"


def test_libraries_are_called_by_names_that_nobody_can_choose() -> None:
    source = (ROOT / "b4m_core/fast/native_calls.py").read_text(encoding="utf-8")
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and dotted(node.func) == "ctypes.CDLL"]
    assert [dotted(call.args[0]) for call in calls] == ["LIBRARY", "C_LIBRARY"] and 'C_LIBRARY = "libc.so.6"' in source
    assert 'LIBRARY = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"' in source


def test_only_the_command_line_imports_what_speaks_to_other_processes() -> None:
    files = [file for file in SHIPPED if file.stem != "process_group"]
    reaching = [file.name for file in files if re.search(r"^\s*(from|import)\b.*\bprocess_group\b", file.read_text("utf-8"), re.MULTILINE)]
    assert reaching == ["commandline.py"]
    nodes = [file for file in SHIPPED if not file.is_relative_to(ROOT / "b4m_core")]
    assert not [file.name for file in nodes if re.search(r"import.*\bcommandline\b", file.read_text(encoding="utf-8"))]
    source = (ROOT / SPEAKS_TO_ITS_OWN).read_text(encoding="utf-8")
    called = {dotted(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute) and dotted(node).startswith("dist.")}
    assert called and not {name for name in called if "object" in name or "rpc" in name}, "objects travel as pickles"


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from urllib.request import urlopen", "def f():\n    import subprocess as s", "torch.load('x')", "eval('1')",
        "x = exec",
        "os.system('x')", "os.execv('x', [])", "np.load('x', allow_pickle=True)", "importlib.import_module('pickle')",
        "getattr(os, 'system')('x')",
        "from torch.hub import load\ntorch.hub.load('x')", "__import__('socket')",
        "from os import system\nsystem('x')", "from torch import load as read\nread('x')", "import torch as t\nt.load('x')",
        "import torch\ntorch.jit.load('x')", "import builtins\nbuiltins.eval('1')", "import zipfile",
        "from asyncio import open_connection\nopen_connection()",
        "import aiohttp\naiohttp.ClientSession()", "import os\nos.fork()", "getattr(builtins, 'eval')('1')",
        "AutoModel.from_pretrained('x', trust_remote_code=True)",
    ],
)  # fmt: skip
def test_the_search_for_forbidden_code_finds_it(source: str) -> None:
    assert findings(source)


def test_the_method_has_no_import_circle() -> None:
    arrows = {
        file.stem: {
            name[1:].split(".")[0]
            for name, _ in imports(ast.parse(file.read_text(encoding="utf-8")))
            if name.startswith(".") and name != "."
        }
        for file in CORE
        if file.stem != "__init__" and file.parent == ROOT / "b4m_core"
    }
    remaining = dict(arrows)
    while remaining:
        free = [name for name, targets in remaining.items() if not targets & remaining.keys()]
        assert free, f"a circle among {sorted(remaining)}"
        for name in free:
            del remaining[name]


def test_every_public_name_of_the_method_is_there_and_documented() -> None:
    import b4m_core

    for name in b4m_core.__all__:
        assert (getattr(b4m_core, name).__doc__ or "").strip(), f"{name} has no docstring"


def is_a_kernel(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether triton compiles the function: its arguments are no Python values."""
    return "triton.jit" in (dotted(each.func if isinstance(each, ast.Call) else each) for each in node.decorator_list)


def test_every_function_of_the_method_says_what_it_takes_and_gives() -> None:
    for file in CORE:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not is_a_kernel(node):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                untyped = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
                assert node.returns is not None and not untyped, f"{file.name}:{node.lineno} {node.name} {untyped}"


def test_files_and_functions_of_the_method_stay_short() -> None:
    lengths = []
    for file in CORE:
        text = file.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 400, f"{file.name} is too long"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                lengths.append((node.end_lineno or 0) - node.lineno + 1)
                assert lengths[-1] <= 60, f"{file.name}:{node.lineno} {node.name} is too long"
    assert sorted(lengths)[len(lengths) // 2] <= 10
