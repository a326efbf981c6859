// What every part of B4M's page is made of: elements, panels on nodes, nodes by their execution id, lists that follow the server's files.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { words } from "./b4m_words.js";

const MARGIN = 10; // what the page leaves free on each side of a DOM widget

/** Build an element: make("div", "class", child, child ...). Text goes in as text, never as HTML. */
export function make(tag, className, ...children) {
    const element = document.createElement(tag);
    element.className = className;
    element.append(...children);
    return element;
}

/** A button that does one thing; `title` says what. */
export function button(text, title, act) {
    const element = make("button", "b4m-button", text);
    element.type = "button";
    element.title = title;
    element.addEventListener("click", (event) => {
        event.stopPropagation();
        act(event);
    });
    return element;
}

/** Add rules to the page's styles. */
export function addStyle(text) {
    document.head.append(Object.assign(document.createElement("style"), { textContent: text }));
}

/**
 * Put `root` on a node, as a widget that is neither in the prompt nor in a saved graph. It is never lower than `height` and as high as the
 * node leaves room for; what it shows must fit in, so that no node grows over another when something is shown.
 */
export function addPanel(node, name, type, root, height) {
    root.classList.add("widget-expands"); // by this name Nodes 2.0 gives what a node is higher to its own widgets; older pages to these alone
    root.classList.add("b4m-panel"); // its size does not follow what is in it: Nodes 2.0 would make the node as high as that
    root.style.minHeight = `${height}px`;
    const widget = node.addDOMWidget(name, type, root, {
        serialize: false, // neither in the prompt ...
        hideOnZoom: false,
        getMinHeight: () => height + 2 * MARGIN,
        getValue: () => "",
        setValue: () => {},
    });
    widget.serialize = false; // ... nor among the widget values of a saved graph
    return widget;
}

/** Call `act` with each node of a type when it is created. */
export function whenCreated(nodeType, act) {
    const onNodeCreated = nodeType.prototype.onNodeCreated;
    nodeType.prototype.onNodeCreated = function (...args) {
        const result = onNodeCreated?.apply(this, args);
        act(this);
        return result;
    };
}

/** Call `act` after an object's own method `name`. */
export function after(object, name, act) {
    const before = object[name];
    object[name] = function (...args) {
        const result = before?.apply(this, args);
        act(...args);
        return result;
    };
}

/** The workflow's outermost graph. */
export function rootGraph() {
    return app.rootGraph ?? app.graph;
}

/** All nodes of a graph and of the subgraphs in it. */
export function allNodes(graph = rootGraph()) {
    return (graph?.nodes ?? []).flatMap((node) => [node, ...(node.subgraph ? allNodes(node.subgraph) : [])]);
}

/** The node with an execution id: "1:2:7" is node 7 in the subgraph of node 2 in the subgraph of node 1. */
export function findNode(id) {
    let graph = rootGraph();
    let node = null;
    for (const part of String(id).split(":")) {
        node = graph?.getNodeById(Number.isNaN(Number(part)) ? part : Number(part)) ?? graph?.getNodeById(part);
        graph = node?.subgraph;
    }
    return node;
}

/** The value of a node's widget, "" where it has none of that name. */
export function valueOf(node, name) {
    return node.widgets?.find((widget) => widget.name === name)?.value ?? "";
}

/** Set a node's widget as the artist would. */
export function setValue(node, name, value) {
    const widget = node.widgets?.find((each) => each.name === name);
    if (!widget) return;
    widget.value = value;
    widget.callback?.(value);
    node.graph?.setDirtyCanvas(true, true);
}

/** POST an object to one of B4M's routes; the answer's `error` is a sentence for the artist. */
export async function ask(route, question) {
    try {
        const response = await api.fetchApi(route, {
            method: "POST",
            headers: { "Content-Type": "application/json" },
            body: JSON.stringify(question),
        });
        return await response.json();
    } catch {
        return { error: words("ComfyUI does not answer."), away: true };
    }
}

/** Only pictures that came with an event or are served by this ComfyUI are shown. */
export function safePicture(url) {
    return typeof url === "string" && /^(data:image\/|\/view\?|\/b4m\/)/.test(url) ? url : "";
}

/** The address of a picture that this ComfyUI serves, wherever it lies on its machine. */
export function pictureAddress(url) {
    return url.startsWith("/") ? api.apiURL(url) : url;
}

/** Nodes 2.0 of older pages watch a list itself, by the Vue that those pages offer to extensions; newer ones notice another list. */
const older = import("vue").then(
    (vue) => vue.reactive,
    () => null,
);

/** Give a combo another list. */
function relist(widget, values, watched) {
    const list = widget.options.values;
    if (watched && Array.isArray(list)) watched(list).splice(0, list.length, ...values);
    else widget.options.values = values;
}

const LISTING = ["B4MPictures", "B4MAuxiliaryPictures", "B4MLoadAdapter", "LoraLoader", "LoraLoaderModelOnly"];

/** The lists of all open nodes that name files, as the server has them now; quieter and quicker than the page's own refresh of 500 types. */
export async function refreshLists() {
    const nodes = allNodes().filter((node) => node.widgets?.some((widget) => widget.type === "combo"));
    const types = [...new Set([...nodes.map((node) => node.type), ...LISTING])];
    const definitions = {};
    await Promise.all(types.map(async (type) => Object.assign(definitions, await definition(type))));
    for (const type of LISTING) if (definitions[type]) await app.registerNodeDef?.(type, definitions[type]); // for nodes yet to come
    for (const node of nodes) {
        const inputs = { ...definitions[node.type]?.input?.required, ...definitions[node.type]?.input?.optional };
        for (const widget of node.widgets) {
            const [kind, options] = inputs[widget.name] ?? [];
            const values = Array.isArray(kind) ? kind : kind === "COMBO" ? options?.options : undefined;
            if (widget.type !== "combo" || !values || String(values) === String(widget.options.values)) continue;
            relist(widget, values, await older);
        }
    }
}

/** What the server says of a node's type, {} where it says nothing. */
async function definition(type) {
    try {
        const response = await api.fetchApi(`/object_info/${encodeURIComponent(type)}`);
        return response.ok ? await response.json() : {};
    } catch {
        return {};
    }
}

addStyle(`
.b4m-panel { box-sizing: border-box; width: 100%; height: 100%; contain: size; display: flex; flex-direction: column; gap: 6px; overflow: hidden;
    padding-top: 2px; font: 12px/1.35 Inter, Arial, sans-serif; color: var(--input-text, #ddd); }
.b4m-panel [hidden] { display: none !important; }
.b4m-faint { color: var(--descrip-text, #999); }
.b4m-button { cursor: pointer; border: 0; border-radius: 4px; padding: 2px 8px; font: inherit; color: inherit;
    background: var(--comfy-input-bg, #333); }
.b4m-button:hover { filter: brightness(1.3); }
.b4m-button:disabled { opacity: 0.4; cursor: default; }
`);
