// B4M Pictures on the page: drop or choose pictures, see them with their captions and masks, edit captions, order, take out and put back.
// Files go to an input subfolder by the page's own upload route; all else by POST /b4m/pictures, which knows folders of the node's list alone.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { openLarge } from "./b4m_large.js";
import { addPanel, addStyle, after, allNodes, ask, button, findNode, make, refreshLists, setValue, valueOf, whenCreated } from "./b4m_parts.js";
import { bring, droppedFiles, hasFiles } from "./b4m_upload.js";
import { words } from "./b4m_words.js";

const ROUTE = "/b4m/pictures";
const NODE_TYPE = "B4MPictures";
const WIDGET_TYPE = "B4M_PICTURE_PANEL";
const HEIGHT = 190;
const WORDS = ["trigger", "class_word", "caption"];
const PAUSE = 300; // ms after the last letter typed

addStyle(`
.b4m-tools { flex: none; display: flex; gap: 6px; align-items: center; }
.b4m-tools span { flex: 1; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; text-align: right; }
.b4m-about { flex: none; max-height: 34px; overflow: hidden auto; white-space: pre-line; overflow-wrap: anywhere; }
.b4m-grid { flex: 1; min-height: 0; overflow: hidden auto; display: grid; gap: 6px; align-content: start;
    grid-template-columns: repeat(auto-fill, minmax(84px, 1fr)); scrollbar-width: thin; border-radius: 4px; }
.b4m-pictures[data-over="true"] .b4m-grid { outline: 2px dashed #4c9be8; outline-offset: -2px; }
.b4m-empty { grid-column: 1 / -1; padding: 28px 12px; text-align: center; border: 1px dashed var(--descrip-text, #777); border-radius: 4px; }
.b4m-card { position: relative; display: flex; flex-direction: column; gap: 2px; min-width: 0; }
.b4m-card > img { width: 100%; height: 72px; object-fit: contain; border-radius: 3px; background: var(--comfy-input-bg, #222); cursor: zoom-in; }
.b4m-card textarea { width: 100%; height: 30px; box-sizing: border-box; resize: none; border: 0; border-radius: 3px; padding: 1px 3px;
    font: 10px/1.3 Inter, Arial, sans-serif; color: var(--input-text, #ddd); background: var(--comfy-input-bg, #222); }
.b4m-card textarea:focus { height: 58px; outline: 1px solid #4c9be8; }
.b4m-card textarea::placeholder { color: var(--descrip-text, #999); opacity: 1; }
.b4m-card nav { position: absolute; top: 2px; right: 2px; display: flex; gap: 2px; opacity: 0; }
.b4m-card:hover nav, .b4m-card:focus-within nav { opacity: 1; }
.b4m-card nav .b4m-button { padding: 0 5px; background: rgba(0, 0, 0, 0.7); color: #fff; }
.b4m-mask { position: absolute; left: 2px; top: 2px; padding: 0 4px; border-radius: 3px; font-size: 9px; color: #fff; background: rgba(0, 0, 0, 0.65); }
`);

/** Give a node its panel. */
function addPictures(node) {
    const view = { count: make("span", "b4m-faint"), about: make("div", "b4m-about b4m-faint"), grid: make("div", "b4m-grid") };
    const several = words("Choose pictures from this computer; several at once, with their .txt captions and _mask pictures");
    const another = words("Choose pictures for a new folder of their own; this one stays as it is");
    view.add = button(words("Add pictures"), several, () => choose(node, false));
    view.fresh = button(words("New set"), another, () => choose(node, true));
    view.root = make("div", "b4m-pictures", make("div", "b4m-tools", view.add, view.fresh, view.count), view.about, view.grid);
    view.known = { pictures: [], removed: [], fixed: "", endings: [] };
    view.demoWord = ""; // the class word of the demo's set, once own pictures have taken its place
    view.said = ""; // what the node said after it ran, or what became of files just brought
    node.b4mPictures = view;
    addPanel(node, "b4m_pictures", WIDGET_TYPE, view.root, HEIGHT);
    takeDrops(node, view);
    after(node, "onConfigure", () => {
        view.openedWith = valueOf(node, "class_word");
        look(node);
    });
    for (const name of ["folder", "use_masks", ...WORDS]) {
        const widget = node.widgets.find((each) => each.name === name);
        if (widget) after(widget, "callback", () => lookSoon(node));
    }
    queueMicrotask(() => look(node));
}

/** Files dropped anywhere on the node come here: on the canvas, on the node of Nodes 2.0, on the panel that lies over both. */
function takeDrops(node, view) {
    node.onDragOver = (event) => hasFiles(event);
    node.onDragDrop = async (event) => {
        if (!hasFiles(event)) return false;
        await take(node, droppedFiles(event), false);
        return true;
    };
    view.root.addEventListener("dragover", (event) => {
        if (!hasFiles(event)) return;
        event.preventDefault();
        event.stopPropagation();
        view.root.dataset.over = "true";
    });
    view.root.addEventListener("dragleave", () => (view.root.dataset.over = "false"));
    view.root.addEventListener("drop", (event) => {
        view.root.dataset.over = "false";
        if (!hasFiles(event)) return;
        event.preventDefault();
        event.stopPropagation();
        take(node, droppedFiles(event), false);
    });
}

/** Let the artist choose files. */
function choose(node, fresh) {
    const field = Object.assign(document.createElement("input"), { type: "file", multiple: true, accept: "image/*,.heic,.heif,.txt" });
    field.addEventListener("change", () => take(node, Promise.resolve({ files: [...field.files], folder: "" }), fresh));
    field.click();
}

/** Bring files into the node's folder, or into a new one where its own is not the artist's to change. */
async function take(node, coming, fresh) {
    const view = node.b4mPictures;
    const { files, folder } = await coming;
    if (!files.length) return;
    const into = fresh || folder || view.known.fixed || view.lost ? "" : valueOf(node, "folder");
    if (String(valueOf(node, "folder")).startsWith("(demo")) view.demoWord = view.openedWith ?? "";
    const said = ["class_word", "trigger"].map((name) => valueOf(node, name)).find((word) => word && word !== view.demoWord);
    const wanted = folder || said || "pictures";
    const tell = (sentence) => say(node, sentence);
    const brought = await bring({ files, into, wanted, endings: view.known.endings, tell });
    await refreshLists();
    if (brought.folder && brought.folder !== valueOf(node, "folder")) setValue(node, "folder", brought.folder);
    say(node, brought.sentence);
    for (const other of allNodes()) if (other.b4mPictures && valueOf(other, "folder") === brought.folder) look(other);
}

function say(node, sentence) {
    node.b4mPictures.said = sentence;
    renderAbout(node);
}

function lookSoon(node) {
    clearTimeout(node.b4mPictures.waiting);
    node.b4mPictures.waiting = setTimeout(() => look(node), PAUSE);
}

/** Ask what the node's folder holds, after doing something to it, and show that. */
async function look(node, action = {}) {
    const view = node.b4mPictures;
    const words = Object.fromEntries(WORDS.map((name) => [name, String(valueOf(node, name))]));
    const question = { folder: String(valueOf(node, "folder")), ...words, ...action };
    const answer = await ask(ROUTE, question);
    if (question.folder !== String(valueOf(node, "folder"))) return; // another one was chosen meanwhile
    if (answer.error) {
        view.lost = !action.do;
        say(node, answer.error);
        if (!action.do) show(node, { ...view.known, pictures: [], removed: [] });
        return;
    }
    view.lost = false;
    show(node, answer);
}

/** Show what a folder holds, unless that is what is shown. */
function show(node, known) {
    const view = node.b4mPictures;
    const look = JSON.stringify([known, valueOf(node, "use_masks"), valueOf(node, "folder")]);
    const typing = view.grid.contains(document.activeElement);
    view.known = known;
    renderAbout(node);
    if (look === view.look || (typing && sameFiles(view, known))) return;
    view.look = look;
    view.cards = known.pictures.map((picture, index) => card(node, picture, index));
    view.grid.replaceChildren(...(view.cards.length ? view.cards : [invitation(node)]));
}

function sameFiles(view, known) {
    return JSON.stringify(known.pictures.map((each) => each.name)) === JSON.stringify(view.cards?.map((each) => each.dataset.name));
}

function invitation(node) {
    const wired = node.inputs?.some((input) => input.name === "images" && input.link != null);
    return make("div", "b4m-empty b4m-faint", words(wired ? "The pictures come by wire." : "Drop three to ten pictures here, or press Add pictures."));
}

function renderAbout(node) {
    const { known, said, count, about, demoWord } = node.b4mPictures;
    const many = known.pictures.length;
    count.textContent = many ? words(many === 1 ? "1 picture" : "{count} pictures", { count: many }) : "";
    const left = demoWord && valueOf(node, "class_word") === demoWord && !known.fixed;
    const hint = left ? words("class_word still says {word}: write what your subject is, in a word the model knows.", { word: demoWord }) : "";
    about.textContent = [hint, said, many ? words(known.fixed) : ""].filter(Boolean).join("\n");
    about.title = about.textContent; // it may be longer than its room
    about.hidden = !about.textContent && !known.removed.length;
    if (!known.removed.length) return;
    about.append(about.textContent ? " " : "", words("Taken out: {count}. ", { count: known.removed.length }));
    about.append(button(words("Put back"), known.removed.join(", "), () => look(node, { do: "restore", name: known.removed.at(-1) })));
}

/** The address of a small view of a picture; its stamp changes with the file. */
function viewOf(node, picture) {
    const query = { folder: valueOf(node, "folder"), name: picture.name, masked: String(Boolean(valueOf(node, "use_masks"))), stamp: picture.stamp };
    return api.apiURL(`${ROUTE}/view?${new URLSearchParams(query)}`);
}

/** The address of the whole picture: the host's own way for what lies in its input folder. */
function wholeOf(node, picture) {
    const folder = valueOf(node, "folder");
    if (folder.startsWith("(")) return viewOf(node, picture);
    return api.apiURL(`/view?${new URLSearchParams({ type: "input", subfolder: folder, filename: picture.name, preview: "webp;90" })}`);
}

function card(node, picture, index) {
    const { known } = node.b4mPictures;
    const image = make("img", "");
    image.src = viewOf(node, picture);
    image.title = picture.name;
    image.draggable = false;
    image.addEventListener("click", () => openLarge(known.pictures.map((each) => ({ url: wholeOf(node, each), title: each.name })), index));
    const parts = [image, captionField(node, picture)];
    if (picture.mask) parts.push(make("span", "b4m-mask", words("mask")));
    if (!known.fixed) parts.push(tools(node, picture, index));
    const made = make("div", "b4m-card", ...parts);
    made.dataset.name = picture.name;
    return made;
}

function captionField(node, picture) {
    const { fixed } = node.b4mPictures.known;
    const field = Object.assign(make("textarea", ""), { value: fixed ? "" : picture.text, placeholder: picture.caption, spellcheck: false });
    field.title = `${picture.name}: ${picture.caption}`;
    if (fixed) return Object.assign(field, { readOnly: true });
    if (!picture.text) field.title = words("{name}: by the caption pattern. Write here what this picture shows.", picture);
    field.addEventListener("keydown", (event) => {
        event.stopPropagation(); // letters are no shortcuts of the page here
        if (event.key === "Escape") field.value = picture.text;
        if (event.key === "Enter" || event.key === "Escape") field.blur();
        if (event.key === "Enter") event.preventDefault();
    });
    field.addEventListener("blur", () => {
        if (field.value.trim() !== picture.text) look(node, { do: "caption", name: picture.name, text: field.value });
    });
    return field;
}

function tools(node, picture, index) {
    const names = node.b4mPictures.known.pictures.map((each) => each.name);
    const moved = (to) => {
        const order = names.filter((name) => name !== picture.name);
        order.splice(to, 0, picture.name);
        look(node, { do: "order", names: order });
    };
    const earlier = button("◀", words("Earlier"), () => moved(index - 1));
    const later = button("▶", words("Later"), () => moved(index + 1));
    earlier.disabled = index === 0;
    later.disabled = index === names.length - 1;
    const away = words("Take out: it moves to the subfolder b4m_removed");
    return make("nav", "", earlier, later, button("✕", away, () => look(node, { do: "remove", name: picture.name })));
}

/** What the node said when it ran. */
function receive({ node: id, display_node: shown, output }) {
    const node = findNode(shown ?? id);
    if (!node?.b4mPictures || !output?.text) return;
    say(node, [output.text].flat().join("\n"));
    look(node);
}

/** Folders and files may have changed while the artist was elsewhere. */
async function lookAgain() {
    if (!allNodes().some((node) => node.type?.startsWith("B4M"))) return;
    await refreshLists();
    for (const node of allNodes()) if (node.b4mPictures) look(node);
}

app.registerExtension({
    name: "b4m.pictures",
    setup() {
        api.addEventListener("executed", ({ detail }) => receive(detail ?? {}));
        api.addEventListener("reconnected", lookAgain);
        window.addEventListener("focus", lookAgain);
    },
    beforeRegisterNodeDef(nodeType, nodeData) {
        if (nodeData.name === NODE_TYPE) whenCreated(nodeType, addPictures);
    },
});
