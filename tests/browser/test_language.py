"""What B4M's nodes say on a page in another language, and again in English when the person changes it back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from host_page import Page

from launcher.server import Server

LOCALE = "Comfy.Locale"
EVENT = """(state) => {
    const node = window.app.graph.nodes.find((node) => node.type === "B4MTrain");
    const send = (name, detail) => window.app.api.dispatchEvent(new CustomEvent(name, { detail }));
    send("b4m.training", { node: String(node.id), type: "B4MTrain", run: "a", ...state });
    send("executed", { node: String(node.id), output: { b4m_run: ["a"] } });
}"""
STEP = {"state": "training", "step": 5, "total": 10, "seconds_left": 61.0, "phase": ["Content", 1, 2], "note": "", "end": ""}
TRAIN, PICTURES, SAVE = (
    "node('B4MTrain').b4mView.root.innerText",
    "node('B4MPictures').b4mPictures.root.innerText",
    "node('B4MSaveAdapter').b4mText.text.innerText",
)


@pytest.fixture
def in_chinese(comfyui: Server) -> Iterator[None]:
    """The page's own setting says Chinese."""
    comfyui.client.request("/settings", {LOCALE: "zh"})
    yield
    comfyui.client.request("/settings", {LOCALE: "en"})


@pytest.mark.parametrize("page", [False], ids=["classic"], indirect=True)  # the words are the same parts in both
def test_buttons_states_estimates_and_hints_are_in_the_pages_language(page: Page, in_chinese: None) -> None:
    page.hide_earlier_trainings()
    page.open_template("b4m_1_first_minute")
    page.wait(f"{TRAIN}.includes('尚未训练：请按“运行”') && {TRAIN}.includes('GB（本机处理器）')", seconds=60)
    page.wait(f"{PICTURES}.includes('添加图片') && {PICTURES}.includes('4 张图片') && {PICTURES}.includes('这些图片随 B4M 附带。')")
    assert page.read(SAVE) == "运行后：文件的名字。"
    page.browser_page.evaluate(EVENT, STEP)
    page.wait(f"{TRAIN}.includes('内容（1/2）：第 5/10 步') && {TRAIN}.includes('还剩 61 秒')")
    page.browser_page.evaluate(EVENT, {"state": "stopped", "end": "Stopped. What was trained is kept: Run goes on from here."})
    page.wait(f"{TRAIN}.includes('停在第 5/10 步') && {TRAIN}.includes('训练过的部分已保留')")
    page.browser_page.evaluate("(name) => window.app.extensionManager.setting.set(name, 'en')", LOCALE)
    page.wait(f"{PICTURES}.includes('Add pictures') && {TRAIN}.includes('press Run')", seconds=60)
    assert page.complaints == []
