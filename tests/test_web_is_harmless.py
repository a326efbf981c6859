"""What the page runs of ours: no text becomes code or markup, and nothing is asked of anybody but the server that it came from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

WEB = Path(__file__).resolve().parents[1] / "web"
SCRIPTS = sorted([*WEB.rglob("*.js"), *WEB.rglob("*.mjs")])
FORBIDDEN = {
    "text that becomes code": r"\beval\s*\(|\bFunction\s*\(|\.constructor\s*\(|set(?:Timeout|Interval)\s*\(\s*[\"'`]|javascript:",
    "text that becomes markup": r"\.(?:inner|outer)HTML\b|insertAdjacentHTML|document\.write|createContextualFragment|DOMParser|srcdoc",
    "attributes by name": r"setAttribute\s*\(\s*[\"'`]on|\[\s*[\"'`]on\w+[\"'`]\s*\]",
    "code from elsewhere": r"\bimport\s*\((?!\"vue\"\))|importScripts|new\s+Worker"
    r"|(?:createElement|make)\s*\(\s*[\"'`](?:script|iframe|object|embed)",
    "another server": r"XMLHttpRequest|\bnew\s+WebSocket|EventSource|sendBeacon|(?<![.\w])fetch\s*\(|[\"'`](?:https?:)?//\w",
    "cookies": r"document\.cookie",
}


def code_of(text: str) -> str:
    """A script without its comments; a slash inside a string is none."""
    strings = r"\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`"
    return re.sub(rf"({strings})|//[^\n]*|/\*.*?\*/", lambda match: match[1] or "", text, flags=re.DOTALL)


def findings(text: str) -> list[str]:
    """What a script may not hold, by kind."""
    code = code_of(text)
    return [f"{kind}: {match[0]}" for kind, pattern in FORBIDDEN.items() for match in re.finditer(pattern, code)]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_nothing_in_a_script_can_run_foreign_text_or_reach_another_server(script: Path) -> None:
    assert findings(script.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        "eval(x)", "new Function('a')", "element.innerHTML = name", "element.outerHTML=x", "e.insertAdjacentHTML('beforeend', x)",
        "document.write(x)", "setTimeout('f()', 1)", "fetch('https://x.y/')", "new WebSocket(u)", "import(url)",
        "a.href = 'javascript:f()'",
        "e.setAttribute('onclick', x)", "document.createElement('script')", "const u = '//evil.example/x'", "document.cookie",
        "e['innerHTML'.length]; e.innerHTML += x", "/* fine */ eval (x)",
    ],
)  # fmt: skip
def test_the_search_finds_it(text: str) -> None:
    assert findings(text)


@pytest.mark.parametrize("text", ["// eval(x)", "/* e.innerHTML */ e.textContent = x", "api.fetchApi(ROUTE)", "a('b // c'); e.append(x)"])
def test_the_search_lets_pass_what_is_harmless(text: str) -> None:
    assert not findings(text)


def test_there_are_scripts_to_look_at() -> None:
    assert len(SCRIPTS) >= 2
