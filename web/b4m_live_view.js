// How one training looks on its node: step and time left, loss curve, samples with their steps, notes. It fits into the room that it has.
import { drawCurve } from "./b4m_curve.js";
import { openLarge } from "./b4m_large.js";
import { addStyle, button, make, pictureAddress, safePicture } from "./b4m_parts.js";
import { duration, words } from "./b4m_words.js";

export const HEIGHT = 300; // the least; a taller node gives more to the sample
/** The states of a training that goes on. */
export const RUNNING = new Set(["started", "auxiliary", "encoding", "training", "painting"]);

addStyle(`
.b4m-head { display: flex; justify-content: space-between; gap: 8px; font-weight: 600; }
.b4m-head span:last-child { font-weight: 400; color: var(--descrip-text, #999); white-space: nowrap; }
.b4m-bar { flex: none; height: 4px; border-radius: 2px; background: var(--comfy-input-bg, #222); overflow: hidden; }
.b4m-bar div { height: 100%; width: 0; border-radius: 2px; background: #4c9be8; transition: width 0.2s linear; }
.b4m-live[data-state="done"] .b4m-bar div, .b4m-live[data-state="reused"] .b4m-bar div { background: #57a773; }
.b4m-live[data-state="stopped"] .b4m-bar div { background: #d9a441; }
.b4m-live[data-state="failed"] .b4m-bar div { background: #d65a5a; }
.b4m-said { flex: none; max-height: 50px; overflow: hidden auto; white-space: pre-line; overflow-wrap: anywhere; }
.b4m-note { color: var(--descrip-text, #999); }
.b4m-live[data-state="failed"] .b4m-end { color: #ff8a80; }
.b4m-curve { flex: none; width: 100%; height: 84px; display: block; border-radius: 4px; background: var(--comfy-input-bg, #222); }
.b4m-sample { flex: 1 1 0; min-height: 0; margin: 0; position: relative; display: flex; justify-content: center; border-radius: 4px;
    overflow: hidden; background: var(--comfy-input-bg, #222); cursor: zoom-in; }
.b4m-sample img { display: block; width: 100%; height: 100%; object-fit: contain; position: absolute; }
.b4m-sample figcaption { position: absolute; left: 6px; bottom: 6px; padding: 1px 6px; border-radius: 3px; background: rgba(0, 0, 0, 0.6);
    color: #fff; font-size: 11px; }
.b4m-blank { flex: 1 1 0; min-height: 0; display: flex; align-items: center; justify-content: center; padding: 0 12px; text-align: center;
    border: 1px dashed var(--descrip-text, #777); border-radius: 4px; overflow: hidden; }
.b4m-take { position: absolute; right: 6px; bottom: 4px; background: rgba(0, 0, 0, 0.7); color: #fff; font-size: 11px; }
.b4m-strip { flex: none; display: flex; gap: 4px; height: 48px; overflow: auto hidden; scrollbar-width: thin; }
.b4m-strip button { flex: none; position: relative; padding: 0; border: 2px solid transparent; border-radius: 4px; overflow: hidden;
    height: 44px; width: 44px; background: none; cursor: pointer; }
.b4m-strip button[aria-pressed="true"] { border-color: #4c9be8; }
.b4m-strip button[data-part] { opacity: 0.7; }
.b4m-strip button[data-part] + button:not([data-part]) { margin-left: 8px; }
.b4m-strip img { width: 100%; height: 100%; object-fit: cover; display: block; }
.b4m-strip span { position: absolute; right: 1px; bottom: 1px; padding: 0 3px; border-radius: 2px; font-size: 9px; line-height: 12px;
    color: #fff; background: rgba(0, 0, 0, 0.65); }
`);

/** The display's elements. `root` is what the page places; `take(step)` makes an earlier step the result, null where that cannot be. */
export function makeView(take) {
    const view = { step: make("span", ""), left: make("span", ""), bar: make("div", ""), end: make("div", "b4m-end"), note: make("div", "b4m-note") };
    view.curve = make("canvas", "b4m-curve");
    view.image = make("img", "");
    view.caption = make("figcaption", "");
    view.progress = make("div", "b4m-bar", view.bar);
    view.said = make("div", "b4m-said", view.end, view.note);
    const hint = words("Set steps to it: Run takes what is kept of that step and trains nothing");
    view.take = button("", hint, () => take(view.shown[shownIndex(view)].step));
    view.take.classList.add("b4m-take");
    view.mayTake = Boolean(take);
    view.sample = make("figure", "b4m-sample", view.image, view.caption, view.take);
    view.strip = make("div", "b4m-strip");
    view.blank = make("div", "b4m-blank b4m-faint", words("The loss curve and sample pictures appear here while it trains."));
    const head = make("div", "b4m-head", view.step, view.left);
    view.root = make("div", "b4m-live", head, view.progress, view.said, view.curve, view.sample, view.strip, view.blank);
    view.waits = null; // "queue" behind another run, "turn" in this one
    view.chosen = null; // the sample that the artist looks at, by nameOf(); null follows the newest
    view.shown = []; // the samples in the strip
    view.sample.addEventListener("click", () => openLarge(large(view), Math.max(shownIndex(view), 0)));
    return view;
}

/** What the first line says in each state. */
function headline(state, waits) {
    if (waits && !RUNNING.has(state?.state)) {
        return waits === "turn" ? words("Its turn comes in this run") : words("In the queue: it begins when what runs has ended");
    }
    if (!state) return words("Not trained yet: press Run");
    const steps = { step: state.step ?? 0, total: state.total ?? 0 };
    const pictures = { number: state.encoding?.[0] ?? 0, of: state.encoding?.[1] ?? 0 };
    if (state.state === "started") return words("Preparing the pictures");
    if (state.state === "auxiliary") return words("Painting auxiliary picture {number} of {of}", pictures);
    if (state.state === "encoding") return words("Encoding picture {number} of {of}", pictures);
    if (state.state === "training") return words("Step {step} of {total}", steps);
    if (state.state === "painting") return words("Trained before, painting a sample");
    if (state.state === "done") return words("Trained, {total} steps", steps);
    if (state.state === "reused") return words("Trained before, reused");
    if (state.state === "stopped") return state.step ? words("Stopped at step {step} of {total}", steps) : words("Stopped before the first step");
    return state.step ? words("Failed at step {step} of {total}", steps) : words("Failed before the first step");
}

/** Which of its trainings a node with several is at. */
function withPhase(phase, state) {
    if (!phase?.length) return state;
    const [part, number, of] = phase;
    const named = of ? words("{part}, {number} of {of}", { part: words(part), number, of }) : words(part);
    return words("{phase}: {state}", { phase: named, state });
}

const keptSample = (stored, step) => `/b4m/kept/sample?${new URLSearchParams({ stored, step })}`;

/** Those of the node's trainings before this one, then all of this one by step: what the run store kept, and what came meanwhile. */
function samplesOf(state) {
    const before = (state?.before ?? []).flatMap(({ part, stored, steps }) => {
        return steps.filter(({ sample }) => sample).map(({ step }) => ({ url: keptSample(stored, step), step, part }));
    });
    const found = new Map();
    for (const sample of [...(state?.samples ?? []), state?.sample]) if (safePicture(sample?.url)) found.set(sample.step, sample);
    for (const { step, sample, adapter } of state?.kept ?? []) {
        if (sample) found.set(step, { url: keptSample(state.stored, step), step, ...found.get(step), kept: adapter });
    }
    return [...before, ...[...found.values()].sort((one, other) => one.step - other.step)];
}

/** Which sample it is, among those of all trainings of a node. */
const nameOf = (sample) => sample && `${sample.part ?? ""} ${sample.step}`;

function captionOf(sample) {
    const said = words("sample at step {step}", sample);
    return sample.part ? words("{phase}: {state}", { phase: words(sample.part), state: said }) : said;
}

/** The place in the strip of the sample that is shown, -1 without one: a longer training that shares this one's start may have later ones. */
function shownIndex({ shown, chosen, state }) {
    const named = shown.findIndex((sample) => nameOf(sample) === (chosen ?? nameOf(state?.sample)));
    if (named >= 0) return named;
    const own = shown.findLastIndex((sample) => !sample.part && sample.step <= (state?.total || Infinity));
    return own >= 0 ? own : shown.length - 1;
}

function large(view) {
    return view.shown.map((sample) => ({ url: pictureAddress(sample.url), title: captionOf(sample) }));
}

/** Put `state` (undefined before the first training) into the view. */
export function render(view, state) {
    const share = state?.total ? (state.step ?? 0) / state.total : 0;
    view.root.dataset.state = state?.state ?? "idle";
    const left = state?.seconds_left ?? null;
    view.step.textContent = withPhase(state?.phase, headline(state, view.waits));
    view.left.textContent = left === null ? "" : words("{time} left", { time: duration(left) });
    view.progress.hidden = !state;
    view.bar.style.width = `${Math.round(100 * (state?.state === "done" || state?.state === "reused" ? 1 : share))}%`;
    view.end.textContent = words(state?.end ?? "");
    view.end.hidden = !state?.end;
    view.note.textContent = state?.note ?? "";
    view.note.hidden = !state?.note;
    view.said.hidden = view.end.hidden && view.note.hidden;
    view.curve.hidden = !(state?.curve?.steps?.length > 1);
    view.blank.hidden = Boolean(state);
    renderSamples(view, state);
    if (!view.curve.hidden) drawWhenChanged(view, state);
}

/** The samples' strip, and one of them in the room that is left. */
function renderSamples(view, state) {
    const samples = samplesOf(state);
    const changed = samples.length !== view.shown.length || samples.some((each, index) => each.url !== view.shown[index].url);
    view.shown = samples;
    view.sample.hidden = !samples.length;
    view.strip.hidden = samples.length < 2;
    if (changed) fillStrip(view, samples);
    const shown = samples[shownIndex(view)];
    if (!shown) return;
    const address = pictureAddress(shown.url);
    if (view.image.getAttribute("src") !== address) view.image.src = address;
    view.caption.textContent = captionOf(shown);
    view.take.hidden = !(view.mayTake && shown.kept && shown.step !== state?.total);
    view.take.textContent = words("Use step {step}", shown);
    [...view.strip.children].forEach((each, index) => press(each, samples[index] === shown));
    if (changed && view.chosen === null) scrollToNewest(view);
}

/** In the next frame, which lays the page out anyway. */
function scrollToNewest(view) {
    view.scrolling ||= requestAnimationFrame(() => {
        view.scrolling = 0;
        view.strip.scrollLeft = view.strip.scrollWidth;
    });
}

/** One button for each sample; those whose sample is the same stay as they are, or a hundred pictures would be decoded anew for each. */
function fillStrip(view, samples) {
    samples.forEach((sample, index) => {
        const there = view.strip.children[index];
        if (there?.b4mSample.url === sample.url && there.b4mSample.step === sample.step) return;
        const made = Object.assign(stripButton(view, sample), { b4mSample: sample });
        if (there) there.replaceWith(made);
        else view.strip.append(made);
    });
    while (view.strip.children.length > samples.length) view.strip.lastChild.remove();
}

function press(each, shown) {
    const value = String(shown);
    if (each.getAttribute("aria-pressed") !== value) each.setAttribute("aria-pressed", value);
}

function stripButton(view, sample) {
    const image = make("img", "");
    image.loading = "lazy";
    image.src = pictureAddress(sample.url);
    const made = make("button", "", image, make("span", "", String(sample.step)));
    made.type = "button";
    if (sample.part) made.dataset.part = sample.part;
    made.title = words("{sample}. Click twice to open it large.", { sample: captionOf(sample) });
    made.addEventListener("click", (event) => {
        event.stopPropagation();
        view.chosen = nameOf(sample) === nameOf(view.state?.sample) ? null : nameOf(sample);
        renderSamples(view, view.state);
    });
    made.addEventListener("dblclick", () => openLarge(large(view), Math.max(shownIndex(view), 0)));
    return made;
}

/** The page gave the curve another size, or its theme another colour; `width` is 0 while it is hidden. */
export function resized(view, { width, height }) {
    view.size = [Math.round(width), Math.round(height)];
    if (width) view.colour = getComputedStyle(view.curve).color;
    if (view.state && !view.curve.hidden) drawWhenChanged(view, view.state);
}

/** Draw the curve in the next frame, once for all that came in until then and only if it is another one. */
function drawWhenChanged(view, state) {
    view.curveOf = state;
    if (view.drawing || !view.size?.[0]) return;
    view.drawing = requestAnimationFrame(() => {
        view.drawing = 0;
        const { curve, total } = view.curveOf;
        const look = `${view.curveOf.run}|${curve.steps.length}|${curve.steps.at(-1)}|${total}|${view.size}`;
        if (look === view.look || !view.size[0]) return;
        view.look = look;
        drawCurve(view.curve, curve, total, view.size, view.colour);
    });
}
