// What B4M's nodes look like on every host: advanced widgets folded away, content and style told apart by colour.
import { app } from "../../scripts/app.js";

const OURS = /^B4M/;
// Blue is content, plum is style, green is both together; the same hues in the live display and the pictures of the help pages.
const CONTENT = { color: "#1f3d52", bgcolor: "#2b536e" };
const STYLE = { color: "#4a2540", bgcolor: "#643257" };
const BOTH = { color: "#28462f", bgcolor: "#365c3f" };
const COLOURS = {
    B4MTrainContent: CONTENT,
    B4MTrainStyle: STYLE,
    B4MTrain: BOTH,
    B4MTrainTogether: BOTH,
    B4MMergeAdapters: BOTH,
};

/** Whether the page folds advanced widgets in Nodes 2.0 by itself; it then has a setting for showing them always. */
const foldsByItself = () => "Comfy.Node.AlwaysShowAdvancedWidgets" in (app.ui?.settings?.settingsLookup ?? {});

/**
 * Classic nodes fold a widget that says so itself, whatever its options say, but leave its room empty: it is given none.
 * Nodes 2.0 of older pages know only hidden ones. "Show Advanced" in the node's menu brings all of them back.
 */
function foldAdvanced(node) {
    const advanced = (node.widgets ?? []).filter((widget) => widget.options?.advanced);
    for (const widget of advanced) {
        const own = widget.computeSize;
        widget.advanced = true;
        widget.computeSize = (width) => (node.showAdvanced ? (own?.call(widget, width) ?? [width ?? 0, window.LiteGraph.NODE_WIDGET_HEIGHT]) : [0, -4]);
        if (!foldsByItself()) Object.defineProperty(widget.options, "hidden", { configurable: true, enumerable: true, get: () => window.LiteGraph.vueNodesMode && !node.showAdvanced });
    }
    if (advanced.length) node.setSize([node.size[0], node.computeSize()[1]]);
}

/** A fresh node takes its colour; what an artist chose, and what a saved workflow says, comes later and stays. */
function colour(node) {
    const colours = COLOURS[node.comfyClass];
    if (colours) Object.assign(node, colours);
}

app.registerExtension({
    name: "b4m.faces",
    nodeCreated(node) {
        if (!OURS.test(node.comfyClass ?? "")) return;
        foldAdvanced(node);
        colour(node);
    },
});
