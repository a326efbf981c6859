// Files from the artist's computer into an input subfolder, by the page's own upload route; captions beside them by ours.
import { api } from "../../scripts/api.js";
import { ask } from "./b4m_parts.js";
import { words } from "./b4m_words.js";

const ROUTE = "/b4m/pictures";
const PICTURES = ["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "gif"];

/** Whether a drag carries files. While it moves the page may know their kind alone. */
export function hasFiles(event) {
    return [...(event?.dataTransfer?.items ?? [])].some((item) => item.kind === "file");
}

/** The files of a drop and the name of the folder that was dropped, if one was. What a drop carries must be taken before anything else runs. */
export function droppedFiles(event) {
    const items = [...event.dataTransfer.items].filter((item) => item.kind === "file");
    const entries = items.map((item) => item.webkitGetAsEntry?.() ?? null);
    const files = [...event.dataTransfer.files];
    return filesOf(entries, files);
}

async function filesOf(entries, files) {
    const folders = entries.filter((entry) => entry?.isDirectory);
    if (!folders.length) return { files, folder: "" };
    const inside = await Promise.all(folders.map(filesInside));
    const loose = files.filter((file) => !folders.some((entry) => entry.name === file.name));
    return { files: [...loose, ...inside.flat()], folder: folders[0].name };
}

/** The files directly in a folder; a reader hands out at most a hundred at once. */
async function filesInside(folder) {
    const reader = folder.createReader();
    const found = [];
    for (;;) {
        const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
        if (!some.length) break;
        found.push(...some.filter((entry) => entry.isFile));
    }
    return Promise.all(found.map((entry) => new Promise((resolve, reject) => entry.file(resolve, reject))));
}

const ending = (name) => name.slice(name.lastIndexOf(".") + 1).toLowerCase();
const stem = (name) => name.slice(0, name.lastIndexOf("."));

/**
 * Bring files into the folder `into`, or into a new one named after `wanted`.
 * @returns {Promise<{folder: string, sentence: string}>} where they lie and what became of each
 */
export async function bring({ files, into, wanted, endings, tell }) {
    const known = endings.length ? endings.map((each) => each.replace(".", "")) : PICTURES;
    const pictures = files.filter((file) => known.includes(ending(file.name)));
    const captions = files.filter((file) => ending(file.name) === "txt");
    const others = files.filter((file) => !pictures.includes(file) && !captions.includes(file) && !file.name.startsWith("."));
    const left = others.map(({ name }) => words("{name} was left out: B4M does not read {ending} files.", { name, ending: ending(name) }));
    if (!pictures.length && !(into && captions.length)) return { folder: into, sentence: [...left, words("No picture was brought.")].join("\n") };
    const folder = into || (await freshName(wanted));
    const names = new Map(); // what was brought, by the name that it had
    for (const [index, file] of pictures.entries()) {
        tell(words("Bringing picture {number} of {of}", { number: index + 1, of: pictures.length }));
        const name = await upload(file, folder);
        if (name) names.set(stem(file.name), name);
        else left.push(words("{name} was not brought: ComfyUI refused it.", file));
    }
    const unread = await bringCaptions(captions, folder, names);
    const count = [...names.keys()].filter((name) => !(name.endsWith("_mask") && names.has(name.slice(0, -5)))).length;
    const brought = words(count === 1 ? "1 picture brought to input/{folder}." : "{count} pictures brought to input/{folder}.", { count, folder });
    return { folder, sentence: [brought, ...left, ...unread].join("\n") };
}

/** Each text goes to the picture of its name; answers what could not be done. */
async function bringCaptions(captions, folder, names) {
    const unread = [];
    for (const file of captions) {
        const name = names.get(stem(file.name)) ?? (await pictureBeside(folder, stem(file.name)));
        const answer = name ? await ask(ROUTE, { folder, do: "caption", name, text: await file.text() }) : { error: words("no picture has its name.") };
        if (answer.error) unread.push(words("{name} was left out: {reason}", { name: file.name, reason: answer.error }));
    }
    return unread;
}

async function pictureBeside(folder, wanted) {
    const known = await ask(ROUTE, { folder });
    return known.pictures?.find((picture) => stem(picture.name) === wanted)?.name;
}

/** One picture to the folder; answers the name that it got there, which differs where another picture has that name. */
async function upload(file, folder) {
    const body = new FormData();
    body.append("image", file, file.name);
    body.append("subfolder", folder);
    body.append("type", "input");
    try {
        const response = await api.fetchApi("/upload/image", { method: "POST", body });
        return response.ok ? (await response.json()).name : "";
    } catch {
        return "";
    }
}

/** A folder name that nothing lies under yet. */
async function freshName(wanted) {
    const plain = wanted.replace(/[^\p{L}\p{N} _-]/gu, "_").trim().slice(0, 60) || "pictures";
    for (let number = 1; ; number++) {
        const name = number === 1 ? plain : `${plain} ${number}`;
        const answer = await ask(ROUTE, { folder: name });
        if (answer.error) return name; // there is none
    }
}
