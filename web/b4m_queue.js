// Training nodes of the open workflow that wait in the host's queue, behind another run of this page or of another, say so.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { render } from "./b4m_live_view.js";
import { allNodes, findNode, rootGraph } from "./b4m_parts.js";

let looking = false;
let lookAgain = false;

/** The nodes of this workflow that this page has put into the queue and that have not begun. */
async function waitingNodes() {
    const response = await api.fetchApi("/queue");
    const mine = (await response.json()).queue_pending.filter(([, , , extra]) => extra?.client_id === api.clientId);
    const here = mine.filter(([, , , extra]) => extra?.extra_pnginfo?.workflow?.id === rootGraph().id);
    return new Set(here.flatMap(([, , graph]) => Object.keys(graph)).map(findNode));
}

/** The queue has changed: ask for it, one question at a time, and show on each training node whether it waits. */
async function look(remaining) {
    const nodes = allNodes().filter((node) => node.b4mView);
    if (!nodes.some((node) => node.b4mView.waits) && !(remaining > 1)) return;
    if (looking) {
        lookAgain = true;
        return;
    }
    looking = true;
    const waiting = await waitingNodes().catch(() => new Set()); // the server is away, and its queue with it
    looking = false;
    for (const node of nodes) {
        if (node.b4mView.waits === waiting.has(node)) continue;
        node.b4mView.waits = waiting.has(node);
        render(node.b4mView, node.b4mView.state);
    }
    if (!lookAgain) return;
    lookAgain = false;
    look(remaining);
}

app.registerExtension({
    name: "b4m.queue",
    setup() {
        api.addEventListener("status", ({ detail }) => look(detail?.exec_info?.queue_remaining ?? 0));
    },
});
