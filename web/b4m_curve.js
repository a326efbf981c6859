// A loss curve on a canvas: raw values faint, their smoothed course bold, both axes labelled.
import { words } from "./b4m_words.js";

const SHARPNESS = 2; // canvas pixels per unit: nodes are looked at zoomed in
const ROOM = { left: 42, right: 10, top: 10, bottom: 24 };
const [LABELS, GRID] = [0.75, 0.18]; // opacity
const RAW = "rgba(76, 155, 232, 0.35)";
const SMOOTH = "#4c9be8";

/** Numbers between `low` and `high` that are easy to read, at most `most` of them. */
export function niceTicks(low, high, most) {
    const span = high - low || Math.abs(high) || 1;
    const power = 10 ** Math.floor(Math.log10(span / most));
    const unit = [1, 2, 5, 10].map((factor) => factor * power).find((step) => span / step <= most) ?? 10 * power;
    const ticks = [];
    for (let tick = Math.ceil(low / unit) * unit; tick <= high + unit * 1e-6; tick += unit) ticks.push(tick);
    return ticks;
}

/** The range of losses shown: all of the smoothed course and the middle of the raw values, so that one spike does not flatten the rest. */
export function lossRange(curve) {
    const raw = curve.raw.filter((value) => value !== null).sort((a, b) => a - b);
    const smooth = curve.smooth.filter((value) => value !== null);
    if (!raw.length) return [0, 1];
    const at = (share) => raw[Math.min(raw.length - 1, Math.floor(share * raw.length))];
    const low = Math.min(at(0.02), ...smooth);
    const high = Math.max(at(0.98), ...smooth);
    const rim = (high - low || Math.abs(high) || 1) * 0.06;
    return [Math.max(0, low - rim), high + rim];
}

/** "0.12", "1.5e-4": short enough for the axis. */
function shortNumber(value, unit) {
    if (value !== 0 && Math.abs(value) < 0.001) return value.toExponential(0);
    return value.toFixed(Math.max(0, Math.min(4, Math.ceil(-Math.log10(unit || 1) - 1e-9))));
}

function drawLine(context, points, colour, width) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.lineJoin = "round";
    context.beginPath();
    let drawing = false; // a gap in the values (NaN) is a gap in the line
    for (const [x, y] of points) {
        if (y === null) drawing = false;
        else if (drawing) context.lineTo(x, y);
        else {
            context.moveTo(x, y);
            drawing = true;
        }
    }
    context.stroke();
}

function drawLossAxis(context, box, place, [low, high]) {
    const ticks = niceTicks(low, high, 4);
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const tick of ticks) {
        const y = place(tick);
        context.globalAlpha = GRID;
        context.fillRect(box.left, y, box.right - box.left, 0.5);
        context.globalAlpha = LABELS;
        context.fillText(shortNumber(tick, ticks[1] - ticks[0]), box.left - 5, y);
    }
    context.save();
    context.translate(8, (box.top + box.bottom) / 2);
    context.rotate(-Math.PI / 2);
    context.textAlign = "center";
    context.fillText(words("loss"), 0, 0);
    context.restore();
}

function drawStepAxis(context, box, place, last) {
    context.globalAlpha = GRID;
    context.fillRect(box.left, box.bottom, box.right - box.left, 1);
    context.globalAlpha = LABELS;
    context.textBaseline = "top";
    const ticks = niceTicks(0, last, 5).filter((tick) => tick < last * 0.9 && Number.isInteger(tick));
    for (const tick of [...ticks, last]) {
        context.textAlign = tick === last ? "right" : tick === 0 ? "left" : "center";
        context.fillText(tick === 0 ? words("step 0") : String(tick), place(tick), box.bottom + 6);
    }
}

/**
 * Draw `curve` ({steps, raw, smooth}) over steps 0 to `total` on a canvas of `size` [width, height], with letters of a colour. Neither is asked
 * of the page here: that would make it lay out everything before the next frame.
 */
export function drawCurve(canvas, curve, total, [width, height], colour) {
    [canvas.width, canvas.height] = [width * SHARPNESS, height * SHARPNESS];
    const context = canvas.getContext("2d");
    context.scale(SHARPNESS, SHARPNESS);
    context.font = "10px Inter, Arial, sans-serif";
    context.fillStyle = colour;
    const box = { left: ROOM.left, right: width - ROOM.right, top: ROOM.top, bottom: height - ROOM.bottom };
    const [low, high] = lossRange(curve);
    const last = Math.max(total || 0, curve.steps[curve.steps.length - 1], 1);
    const placeX = (step) => box.left + ((box.right - box.left) * step) / last;
    const placeY = (loss) => box.bottom - ((box.bottom - box.top) * (loss - low)) / (high - low);
    drawLossAxis(context, box, placeY, [low, high]);
    drawStepAxis(context, box, placeX, last);
    const line = (values) => curve.steps.map((step, index) => [placeX(step), values[index] === null ? null : placeY(values[index])]);
    context.globalAlpha = 1;
    context.beginPath();
    context.rect(box.left, box.top - 4, box.right - box.left + 2, box.bottom - box.top + 4);
    context.clip();
    drawLine(context, line(curve.raw), RAW, 1);
    drawLine(context, line(curve.smooth), SMOOTH, 2);
}
