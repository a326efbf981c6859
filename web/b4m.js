// The live display on B4M's training nodes: which node shows which training.
// The server sends changes as the event "b4m.training", each with the name of its run. A node shows the run that the server says it belongs
// to, by the content of the graph that leads to it (POST /b4m/shown): its number says nothing, every workflow has a node 6. Where the host
// hands out an older result without asking the node, its "executed" event names the run that the result is of.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { HEIGHT, makeView, render, resized, RUNNING } from "./b4m_live_view.js";
import { addPanel, after, allNodes, ask, findNode, rootGraph, setValue, valueOf, whenCreated } from "./b4m_parts.js";
import { words } from "./b4m_words.js";

const EVENT = "b4m.training";
const ROUTE = "/b4m/shown";
const KEPT_ROUTE = "/b4m/kept"; // the steps that the run store kept of a run, with their samples
const RUN_KEY = "b4m_run";
const MOST_RUNS = 50;
const NODE_TYPES = new Set(["B4MTrain", "B4MTrainContent", "B4MTrainStyle", "B4MTrainTogether"]);
const SEVERAL = "B4MTrain"; // trains three times: its steps are not those of one run
const [REUSE, RETRAIN] = ["continue or reuse", "retrain"];
const WIDGET_TYPE = "B4M_LIVE"; // a name of our own: known names such as "customtext" are turned into other widgets by Nodes 2.0

/** @type {Map<string, object>} what is known of trainings, by the name of their run; the one that changed last at the end */
const runs = new Map();

/** Add the display to a node that was just created. */
function addDisplay(node, type) {
    const view = makeView(type === SEVERAL ? null : (step) => takeStep(node, step));
    addPanel(node, "b4m_live", WIDGET_TYPE, view.root, HEIGHT);
    node.b4mView = view;
    const observer = new ResizeObserver(([entry]) => resized(view, entry.contentRect)); // the curve is drawn for its size
    observer.observe(view.curve);
    after(node, "onRemoved", () => observer.disconnect());
    show(node, undefined);
}

/** Render the state of a run on a node. */
function show(node, state) {
    const view = node?.b4mView;
    if (!view) return;
    if (view.state?.run !== state?.run) view.chosen = null;
    view.state = state;
    node.b4mRun = state?.run;
    render(view, state);
    if (state) askForKept(state);
}

/** Make an earlier step the result: Run then takes what is kept of it and trains nothing. */
function takeStep(node, step) {
    setValue(node, "steps", step);
    if (valueOf(node, "run") === RETRAIN) setValue(node, "run", REUSE);
    const view = node.b4mView;
    show(node, { ...view.state, note: words("steps is {step} now: Run takes that step as it was kept.", { step }) });
}

/** Ask what is kept of a run, once for each sample that it has painted and at its end. */
async function askForKept(state) {
    const mark = `${state.stored}|${state.sample?.step}|${RUNNING.has(state.state)}`;
    if (!state.stored || state.keptMark === mark) return;
    state.keptMark = mark;
    const keptOf = async (stored) => (await ask(KEPT_ROUTE, { stored })).steps;
    const steps = await keptOf(state.stored);
    const before = await Promise.all((state.earlier ?? []).map(async ([part, stored]) => ({ part, stored, steps: (await keptOf(stored)) ?? [] })));
    const now = runs.get(state.run);
    if (!steps || !now) return;
    keep({ ...now, kept: steps, before, keptMark: mark });
    for (const node of nodesOf(state.run)) show(node, runs.get(state.run));
}

/** Remember what is known of a run. */
function keep(state) {
    runs.delete(state.run);
    runs.set(state.run, state);
    if (runs.size > MOST_RUNS) runs.delete(runs.keys().next().value);
}

/** Take in what the server answers about a run; an event that came while it answered is newer. */
function learn(state) {
    const known = runs.get(state.run);
    const { kept, before, keptMark, samples } = known ?? {};
    keep(known?.at > state.at ? { ...state, ...known } : { ...state, kept, before, keptMark, samples });
}

/** The open nodes that show a run. */
function nodesOf(run) {
    return allNodes().filter((node) => node.b4mView && node.b4mRun === run);
}

/** Take one event in: it holds only what changed. A run that no open node shows yet may belong to one. */
function receive(payload) {
    if (!payload?.run) return;
    const before = runs.get(payload.run);
    const samples = [...(before?.samples ?? []), ...(payload.sample ? [payload.sample] : [])];
    keep({ ...before, ...payload, samples: payload.samples ?? samples });
    const nodes = nodesOf(payload.run);
    for (const node of nodes) show(node, runs.get(payload.run));
    if (!nodes.length && (payload.state === "started" || !before)) askForGraph();
}

/** The host says what a node put out, also when it did not ask it: show the run that this is the result of. */
async function receiveResult({ node: id, output }) {
    const run = output?.[RUN_KEY]?.[0];
    if (!run) return;
    const node = findNode(id);
    if (!node?.b4mView || node.b4mRun === run) return;
    if (!runs.has(run)) for (const state of Object.values((await ask(ROUTE, { runs: [run] })).runs ?? {})) learn(state);
    if (runs.has(run)) show(node, runs.get(run));
}

let asking = null;
let askedAgain = false;

/** Ask which trainings belong to the open graph: after a reload, with another graph, when a training starts. One question at a time. */
function askForGraph() {
    if (asking) {
        askedAgain = true;
        return asking;
    }
    asking = answerForGraph().finally(() => {
        asking = null;
        if (!askedAgain) return;
        askedAgain = false;
        askForGraph();
    });
    return asking;
}

async function answerForGraph() {
    if (!allNodes().some((node) => node.b4mView)) return {};
    const graph = rootGraph();
    let prompt;
    try {
        prompt = (await app.graphToPrompt()).output;
    } catch {
        return {}; // a graph that cannot run has no training
    }
    const answer = await ask(ROUTE, { prompt, graph: graph.id, page: api.clientId });
    if (graph !== rootGraph()) return {};
    for (const [id, state] of Object.entries(answer.nodes ?? {})) {
        learn(state);
        show(findNode(id), runs.get(state.run));
    }
    return answer;
}

/** After the connection was lost: a training that a new server does not go on with ended with the old one. */
async function askAgain() {
    const answer = await askForGraph();
    if (answer.away) return;
    for (const node of allNodes()) {
        const state = node.b4mView?.state;
        const known = Object.values(answer.nodes ?? {}).some((each) => each.run === state?.run);
        if (!state || known || !RUNNING.has(state.state)) continue;
        keep({ ...state, state: "stopped", seconds_left: null, end: words("ComfyUI was ended. Run goes on from what was kept.") });
        show(node, runs.get(state.run));
    }
}

app.registerExtension({
    name: "b4m.live",
    setup() {
        api.addEventListener(EVENT, ({ detail }) => receive(detail));
        api.addEventListener("executed", ({ detail }) => receiveResult(detail ?? {}));
        api.addEventListener("reconnected", askAgain);
    },
    beforeRegisterNodeDef(nodeType, nodeData) {
        if (NODE_TYPES.has(nodeData.name)) whenCreated(nodeType, (node) => addDisplay(node, nodeData.name));
    },
    afterConfigureGraph: () => void askForGraph(),
});
