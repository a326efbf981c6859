// What a training will take, above its display before it ran; and, while it runs, the time left of all trainings of the workflow.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { RUNNING } from "./b4m_live_view.js";
import { allNodes, ask, findNode, make } from "./b4m_parts.js";
import { duration, words } from "./b4m_words.js";

const ROUTE = "/b4m/estimate";
const EVENT = "b4m.training";
const WAIT = 600; // milliseconds after the last change, before the server is asked

/** @type {Map<string, {seconds: number, gib: number, measured: boolean, machine: string}>} by execution id */
let estimates = new Map();
const over = new Set(); // nodes that this run of the workflow is done with, or took from the cache
let timer = null;

/** "About 40 min and 9 GB on NVIDIA GeForce RTX 4070", and how it is known; seconds by fives, for it is no stopwatch. */
function inWords({ seconds, gib, measured, machine }) {
    const time = duration(seconds < 90 ? Math.max(5, Math.round(seconds / 5) * 5) : seconds);
    const estimate = words("About {time} and {gib} GB on {machine}", { time, gib: Math.max(1, Math.round(gib)), machine: words(machine) });
    if (measured) return words("{estimate} (as the last trainings here)", { estimate });
    return words("{estimate} (by arithmetic until something was trained here)", { estimate });
}

/** The line on a node, made when it is first needed. */
function line(node) {
    const view = node.b4mView;
    if (view && !view.estimate) {
        view.estimate = make("div", "b4m-estimate");
        Object.assign(view.estimate.style, { flex: "none", color: "var(--descrip-text, #999)" });
        view.root.prepend(view.estimate);
    }
    return view?.estimate;
}

function say(node, text) {
    const place = line(node);
    if (!place || place.textContent === text) return;
    place.textContent = text;
    place.hidden = !text;
}

/** Ask what the trainings of the open workflow will take. */
async function askAll() {
    if (!allNodes().some((node) => node.b4mView)) return;
    const { output } = await app.graphToPrompt();
    const answer = await ask(ROUTE, { prompt: output });
    estimates = new Map(Object.entries(answer?.nodes ?? {}));
    for (const [id, estimate] of estimates) {
        const node = findNode(id);
        const state = node?.b4mView?.root.dataset.state;
        if (node) say(node, !state || state === "idle" || state === "stopped" ? inWords(estimate) : RUNNING.has(state) ? line(node)?.textContent ?? "" : "");
    }
}

function soon() {
    clearTimeout(timer);
    timer = setTimeout(() => askAll().catch(() => {}), WAIT); // the server is away: nothing is estimated
}

/** The time left of this training, of those that its own node has still to do, and of other nodes. */
function timeLeft(id, state) {
    let left = (state.seconds_left ?? 0) + (state.later ?? 0);
    for (const [other, { seconds }] of estimates) if (other !== id && !over.has(other)) left += seconds;
    return left;
}

/** @type {Map<string, object>} what is known of the trainings that go on, by the name of their run */
const states = new Map();

/** A node's number says nothing, in another tab it is another training: the line follows the run that the node shows. */
function receive(payload) {
    const id = String(payload?.node ?? "");
    const state = { ...states.get(payload?.run), ...payload };
    if (RUNNING.has(state.state)) states.set(payload.run, state);
    else states.delete(payload?.run);
    const node = findNode(id);
    if (!node?.b4mView || node.b4mRun !== payload.run) return;
    if (!RUNNING.has(state.state)) {
        if (state.state === "done" || state.state === "reused") say(node, "");
        soon();
        return;
    }
    const left = timeLeft(id, state);
    const others = left - (state.seconds_left ?? 0) > 1;
    const estimate = estimates.get(id);
    if (state.state === "training" && others) say(node, words("All trainings: about {time} left", { time: duration(left) }));
    else say(node, estimate ? inWords(estimate) : "");
}

/** A node of this page's own run is done. */
function finished(id) {
    over.add(String(id));
    if (findNode(id)?.b4mView) soon();
}

app.registerExtension({
    name: "b4m.estimate",
    setup() {
        api.addEventListener(EVENT, ({ detail }) => receive(detail));
        api.addEventListener("execution_start", () => over.clear());
        api.addEventListener("execution_cached", ({ detail }) => (detail?.nodes ?? []).forEach((id) => over.add(String(id))));
        api.addEventListener("executed", ({ detail }) => finished(detail?.node));
        api.addEventListener("graphChanged", soon);
    },
    afterConfigureGraph: soon,
});
