// What B4M's nodes say after they ran (ui.text), on the node itself in both renderers, and words to copy.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { addPanel, addStyle, button, findNode, make, refreshLists, whenCreated } from "./b4m_parts.js";
import { words } from "./b4m_words.js";

const WIDGET_TYPE = "B4M_TEXT"; // a name of our own: known names such as "customtext" are turned into other widgets by Nodes 2.0
const [LOW, HIGH] = [44, 170];
const NOT_YET = {
    B4MSaveAdapter: "After Run: the name of the file.",
    B4MMergeAdapters: "After Run: whether the two fit.",
    B4MAdapterFacts: "After Run: trigger words, a prompt to copy, and all that the file says.",
    B4MAuxiliaryPictures: "After Run: what was painted.",
    B4MContactSheet: "After Run: what was noticed.",
    B4MStrengthTable: "After Run: what was noticed.",
    B4MCompareAdapters: "After Run: what was noticed.",
};

addStyle(`
.b4m-text { flex: 1; overflow: hidden auto; white-space: pre-wrap; overflow-wrap: anywhere; user-select: text; cursor: text; }
.b4m-copy { display: flex; gap: 6px; align-items: center; }
.b4m-copy code { flex: 1; overflow: hidden; white-space: nowrap; text-overflow: ellipsis; border-radius: 3px; padding: 2px 6px;
    background: var(--comfy-input-bg, #222); user-select: text; }
`);

/** Put a text on the clipboard; pages that are no secure place (another machine by http) have none to ask. */
async function copy(text) {
    if (navigator.clipboard) return navigator.clipboard.writeText(text);
    const field = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
}

/** One line with something to copy. */
function copyLine(label, text) {
    const press = button(words("Copy"), words("Copy: {text}", { text }), async () => {
        await copy(text);
        press.textContent = words("Copied");
        setTimeout(() => (press.textContent = words("Copy")), 1500);
    });
    return make("div", "b4m-copy", make("span", "b4m-faint", words(label)), make("code", "", text), press);
}

/** Give a node a place for what it says. */
function addText(node, type, hint) {
    const view = { lines: make("div", ""), text: make("div", "b4m-text b4m-faint", words(hint)), saves: type === "B4MSaveAdapter" };
    view.lines.style.display = "contents";
    addPanel(node, "b4m_text", WIDGET_TYPE, make("div", "", view.lines, view.text), type === "B4MAdapterFacts" ? HIGH : LOW);
    node.b4mText = view;
}

/** Show what a node put out. */
function receive({ node: id, display_node: shown, output }) {
    const node = findNode(shown ?? id);
    if (!node?.b4mText || !output) return;
    const text = [output.text ?? []].flat().join("\n");
    node.b4mText.text.textContent = text || words("Nothing to say.");
    node.b4mText.text.classList.toggle("b4m-faint", !text);
    node.b4mText.lines.replaceChildren(...(output.b4m_copy ?? []).map(([label, words]) => copyLine(label, words)));
    if (node.b4mText.saves) refreshLists();
}

app.registerExtension({
    name: "b4m.text",
    setup() {
        api.addEventListener("executed", ({ detail }) => receive(detail ?? {}));
    },
    beforeRegisterNodeDef(nodeType, nodeData) {
        const hint = NOT_YET[nodeData.name];
        if (hint) whenCreated(nodeType, (node) => addText(node, nodeData.name, hint));
    },
});
