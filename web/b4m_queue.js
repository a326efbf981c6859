// Training nodes of the open workflow that have not begun say what they wait for: another run in the host's queue, or their turn in this one.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { render } from "./b4m_live_view.js";
import { allNodes, findNode, rootGraph } from "./b4m_parts.js";

let looking = false;
let lookAgain = false;
let running = null; // this page's own run that the server is at
const begun = new Set(); // execution ids of what that run has come to, or took from the cache

/** What each node of this workflow waits for, of the runs that this page has asked for: "queue" or "turn". */
async function waitingNodes() {
    const response = await api.fetchApi("/queue");
    const { queue_pending: pending, queue_running: now } = await response.json();
    const ofThis = ([, , , extra]) => extra?.client_id === api.clientId && extra?.extra_pnginfo?.workflow?.id === rootGraph().id;
    const found = new Map();
    for (const [, , graph] of pending.filter(ofThis)) for (const id of Object.keys(graph)) found.set(findNode(id), "queue");
    for (const [, prompt, graph] of now.filter(ofThis)) {
        const later = prompt === running ? Object.keys(graph).filter((id) => !begun.has(id)) : [];
        for (const id of later) found.set(findNode(id), "turn");
    }
    return found;
}

/** Ask for the queue, one question at a time, and show on each training node what it waits for. */
async function look() {
    if (looking) {
        lookAgain = true;
        return;
    }
    looking = true;
    const waiting = await waitingNodes().catch(() => new Map()); // the server is away, and its queue with it
    looking = false;
    for (const node of allNodes()) if (node.b4mView) waits(node, waiting.get(node) ?? null);
    if (!lookAgain) return;
    lookAgain = false;
    look();
}

function waits(node, what) {
    if (node.b4mView.waits === what) return;
    node.b4mView.waits = what;
    render(node.b4mView, node.b4mView.state);
}

/** The queue is of interest while something is in it beside what runs, or a node still says that it waits. */
function queueChanged(remaining) {
    const nodes = allNodes().filter((node) => node.b4mView);
    if (nodes.length && (remaining > 1 || nodes.some((node) => node.b4mView.waits))) look();
}

function started(prompt) {
    running = prompt;
    begun.clear();
    if (allNodes().some((node) => node.b4mView)) look();
}

/** The run has come to a node: it waits no longer. */
function came(id) {
    begun.add(String(id));
    const node = findNode(id);
    if (node?.b4mView?.waits === "turn") waits(node, null);
}

function ended() {
    running = null;
    for (const node of allNodes()) if (node.b4mView?.waits === "turn") waits(node, null);
}

app.registerExtension({
    name: "b4m.queue",
    setup() {
        const listen = (name, act) => api.addEventListener(name, ({ detail }) => act(detail));
        listen("status", (detail) => queueChanged(detail?.exec_info?.queue_remaining ?? 0));
        listen("execution_start", (detail) => started(detail?.prompt_id));
        listen("execution_cached", (detail) => (detail?.nodes ?? []).forEach(came));
        listen("executing", (id) => id != null && came(id));
        for (const name of ["execution_success", "execution_error", "execution_interrupted"]) listen(name, ended);
    },
});
