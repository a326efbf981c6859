// The live display on B4M's training nodes: step and time left, loss curve, newest sample, notes.
// The server sends changes as the event "b4m.training"; after a reload the page asks GET /b4m/live once for everything.
// Where the host hands out an older result without asking the node, its "executed" event names the run that the result is of.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { drawCurve } from "./b4m_curve.js";

const EVENT = "b4m.training";
const ROUTE = "/b4m/live";
const RUN_KEY = "b4m_run";
const MOST_RUNS = 50;
const RUNNING = new Set(["started", "encoding", "training", "painting"]);
const NODE_TYPES = new Set(["B4MTrainContent", "B4MTrainStyle", "B4MTrainTogether"]);
const WIDGET_TYPE = "B4M_LIVE"; // a name of our own: known names such as "customtext" are turned into other widgets by Vue nodes
const IDLE_HEIGHT = 24;
const MARGIN = 10; // what the page leaves free on each side of a DOM widget

/** @type {Map<string, object>} what is known of each node, by its execution id ("7", in subgraphs "1:2:7") */
const known = new Map();
/** @type {Map<string, object>} what trainings came to, by the name of their run */
const ended = new Map();

const STYLE = `
.b4m-live { box-sizing: border-box; padding-top: 2px; overflow: hidden auto; font: 12px/1.35 Inter, Arial, sans-serif; color: var(--input-text, #ddd); }
.b4m-inner { display: flex; flex-direction: column; gap: 6px; }
.b4m-inner [hidden] { display: none !important; }
.b4m-head { display: flex; justify-content: space-between; gap: 8px; font-weight: 600; }
.b4m-head span:last-child { font-weight: 400; color: var(--descrip-text, #999); white-space: nowrap; }
.b4m-bar { height: 4px; border-radius: 2px; background: var(--comfy-input-bg, #222); overflow: hidden; }
.b4m-bar div { height: 100%; width: 0; border-radius: 2px; background: #4c9be8; transition: width 0.2s linear; }
.b4m-live[data-state="done"] .b4m-bar div, .b4m-live[data-state="reused"] .b4m-bar div { background: #57a773; }
.b4m-live[data-state="stopped"] .b4m-bar div { background: #d9a441; }
.b4m-live[data-state="failed"] .b4m-bar div { background: #d65a5a; }
.b4m-curve { width: 100%; height: 116px; display: block; border-radius: 4px; background: var(--comfy-input-bg, #222); }
.b4m-sample { margin: 0; position: relative; display: flex; justify-content: center; border-radius: 4px; overflow: hidden; background: var(--comfy-input-bg, #222); }
.b4m-sample img { display: block; width: 100%; max-height: 280px; object-fit: contain; }
.b4m-sample figcaption { position: absolute; left: 6px; bottom: 6px; padding: 1px 6px; border-radius: 3px; background: rgba(0, 0, 0, 0.6); color: #fff; font-size: 11px; }
.b4m-note { white-space: pre-line; overflow-wrap: anywhere; color: var(--descrip-text, #999); }
.b4m-end { overflow-wrap: anywhere; }
.b4m-live[data-state="failed"] .b4m-end { color: #ff8a80; }
`;

/** Build an element: make("div", "class", child, child ...). */
function make(tag, className, ...children) {
    const element = document.createElement(tag);
    element.className = className;
    element.append(...children);
    return element;
}

/** The display's elements; `root` is what the page places, `inner` is as tall as its content. */
function makeView() {
    const view = { step: make("span", ""), left: make("span", ""), bar: make("div", ""), end: make("div", "b4m-end"), note: make("div", "b4m-note") };
    view.curve = make("canvas", "b4m-curve");
    view.image = make("img", "");
    view.caption = make("figcaption", "");
    view.progress = make("div", "b4m-bar", view.bar);
    view.sample = make("figure", "b4m-sample", view.image, view.caption);
    const head = make("div", "b4m-head", view.step, view.left);
    view.inner = make("div", "b4m-inner", head, view.progress, view.end, view.curve, view.sample, view.note);
    view.root = make("div", "b4m-live", view.inner);
    return view;
}

/** "about 2 min left", "45 s left". */
function timeLeft(seconds) {
    if (seconds === null || seconds === undefined) return "";
    if (seconds < 90) return `${Math.max(Math.round(seconds), 1)} s left`;
    if (seconds < 5400) return `${Math.round(seconds / 60)} min left`;
    return `${(seconds / 3600).toFixed(1)} h left`;
}

/** What the first line says in each state. */
function headline(state) {
    if (!state) return "Not trained yet: press Run";
    const steps = `${state.step ?? 0} of ${state.total ?? 0}`;
    if (state.state === "started") return "Preparing the pictures";
    if (state.state === "encoding") return `Encoding picture ${state.encoding?.[0] ?? 0} of ${state.encoding?.[1] ?? 0}`;
    if (state.state === "training") return `Step ${steps}`;
    if (state.state === "painting") return "Trained before, painting a sample";
    if (state.state === "done") return `Trained, ${state.total} steps`;
    if (state.state === "reused") return "Trained before, reused";
    if (state.state === "stopped") return `Stopped at step ${steps}`;
    return `Failed at step ${steps}`;
}

/** Only pictures that came with the event or lie in the host's own folders are shown. */
function safePicture(url) {
    return typeof url === "string" && (url.startsWith("data:image/") || url.startsWith("/view?")) ? url : "";
}

/** Put `state` (undefined before the first training) into the view. */
function render(view, state) {
    const share = state?.total ? (state.step ?? 0) / state.total : 0;
    const picture = safePicture(state?.sample?.url);
    view.root.dataset.state = state?.state ?? "idle";
    view.step.textContent = headline(state);
    view.left.textContent = timeLeft(state?.seconds_left);
    view.progress.hidden = !state;
    view.bar.style.width = `${Math.round(100 * (state?.state === "done" || state?.state === "reused" ? 1 : share))}%`;
    view.end.textContent = state?.end ?? "";
    view.end.hidden = !state?.end;
    view.note.textContent = state?.note ?? "";
    view.note.hidden = !state?.note;
    view.curve.hidden = !(state?.curve?.steps?.length > 1);
    view.sample.hidden = !picture;
    if (picture && view.image.getAttribute("src") !== picture) view.image.src = picture;
    view.caption.textContent = picture ? `sample at step ${state.sample.step}` : "";
    if (!view.curve.hidden) drawCurve(view.curve, state.curve, state.total);
}

/** Make the node tall enough for its content; it never shrinks below what the artist chose. */
function fit(node, view) {
    const height = view.inner.offsetHeight;
    if (!height || Math.abs(height - view.height) < 1) return;
    view.height = height;
    const needed = node.computeSize()[1];
    if (node.size[1] < needed) node.setSize([node.size[0], needed]);
    node.graph?.setDirtyCanvas(true, true);
}

/** Add the display to a node that was just created. */
function addDisplay(node) {
    const view = makeView();
    view.height = IDLE_HEIGHT;
    const widget = node.addDOMWidget("b4m_live", WIDGET_TYPE, view.root, {
        serialize: false, // neither in the prompt ...
        hideOnZoom: false,
        getMinHeight: () => view.height + 2 * MARGIN,
        getValue: () => "",
        setValue: () => {},
    });
    widget.serialize = false; // ... nor among the widget values of a saved graph
    node.b4mView = view;
    const observer = new ResizeObserver(() => show(node, view.state));
    observer.observe(view.inner);
    const onRemoved = node.onRemoved;
    node.onRemoved = function (...args) {
        observer.disconnect();
        return onRemoved?.apply(this, args);
    };
    show(node, undefined);
}

/** Render a state on a node and let the node grow with it. */
function show(node, state) {
    const view = node.b4mView;
    if (!view) return;
    view.state = state;
    render(view, state);
    fit(node, view);
}

/** The node with an execution id: "1:2:7" is node 7 in the subgraph of node 2 in the subgraph of node 1. */
function findNode(id) {
    let graph = app.rootGraph ?? app.graph;
    let node = null;
    for (const part of String(id).split(":")) {
        node = graph?.getNodeById(Number.isNaN(Number(part)) ? part : Number(part)) ?? graph?.getNodeById(part);
        graph = node?.subgraph;
    }
    return node;
}

/** Show what is known of a node, if a node of that id and type is open now. */
function showKnown(id) {
    const node = findNode(id);
    const state = known.get(id);
    if (node?.b4mView && state && (!state.type || state.type === node.comfyClass)) show(node, state);
}

/** Take one event in: it holds only what changed, except that a new training starts anew. */
function receive(payload) {
    if (!payload?.node) return;
    const id = String(payload.node);
    known.set(id, payload.state === "started" ? payload : { ...known.get(id), ...payload });
    keep(known.get(id));
    showKnown(id);
}

/** Remember what a training came to. */
function keep(state) {
    if (!state.run || (state.state !== "done" && state.state !== "reused")) return;
    ended.delete(state.run);
    ended.set(state.run, state);
    if (ended.size > MOST_RUNS) ended.delete(ended.keys().next().value);
}

/** The host says what a node put out, also when it did not ask it: show the run that this is the result of. */
async function receiveResult({ node, output }) {
    const run = output?.[RUN_KEY]?.[0];
    const id = String(node);
    if (!run) return;
    const isKnown = () => known.get(id)?.run === run;
    if (!isKnown() && !ended.has(run)) await askForAll(); // a page that was reloaded since
    if (!isKnown() && ended.has(run)) known.set(id, { ...ended.get(run), node: id });
    if (isKnown()) showKnown(id);
}

/** Ask the server for everything: after a reload, after another graph was opened, after the connection was lost. */
async function askForAll() {
    try {
        const response = await api.fetchApi(ROUTE);
        if (!response.ok) return;
        const answer = await response.json();
        for (const payload of answer.ended ?? []) keep(payload);
        for (const payload of answer.nodes ?? []) {
            known.set(String(payload.node), payload);
            showKnown(String(payload.node));
        }
        return answer;
    } catch {
        // the server is away; the next event brings the display up to date
    }
}

/** After the connection was lost: a training that a new server does not know of ended with the old one. */
async function askAgain() {
    const answer = await askForAll();
    if (!answer) return;
    const there = new Set((answer.nodes ?? []).map((payload) => String(payload.node)));
    for (const [id, state] of known) {
        if (there.has(id) || !RUNNING.has(state.state)) continue;
        receive({ node: id, state: "stopped", seconds_left: null, end: "ComfyUI was ended. Run goes on from what was kept." });
    }
}

app.registerExtension({
    name: "b4m.live",
    setup() {
        document.head.append(Object.assign(document.createElement("style"), { textContent: STYLE }));
        api.addEventListener(EVENT, ({ detail }) => receive(detail));
        api.addEventListener("executed", ({ detail }) => receiveResult(detail ?? {}));
        api.addEventListener("reconnected", askAgain);
    },
    beforeRegisterNodeDef(nodeType, nodeData) {
        if (!NODE_TYPES.has(nodeData.name)) return;
        const onNodeCreated = nodeType.prototype.onNodeCreated;
        nodeType.prototype.onNodeCreated = function (...args) {
            const result = onNodeCreated?.apply(this, args);
            addDisplay(this);
            return result;
        };
    },
    afterConfigureGraph: askForAll,
});
