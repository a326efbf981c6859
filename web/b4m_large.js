// Pictures opened large, over the page: arrows go through them, Escape or a click beside them closes.
import { addStyle, button, make } from "./b4m_parts.js";
import { words } from "./b4m_words.js";

addStyle(`
.b4m-large { position: fixed; inset: 0; z-index: 10000; display: flex; flex-direction: column; align-items: center; justify-content: center;
    gap: 12px; background: rgba(0, 0, 0, 0.85); color: #eee; font: 14px/1.4 Inter, Arial, sans-serif; }
.b4m-large img { max-width: 92vw; max-height: 80vh; min-width: min(60vw, 60vh); object-fit: contain; image-rendering: auto; }
.b4m-large div { display: flex; gap: 10px; align-items: center; }
`);

/**
 * Show pictures large, beginning with one of them.
 * @param {{url: string, title: string}[]} pictures
 * @param {number} index
 */
export function openLarge(pictures, index) {
    const image = make("img", "");
    const title = make("span", "");
    const go = (step) => show((place + step + pictures.length) % pictures.length);
    const [earlier, later] = [button("◀", words("Earlier"), () => go(-1)), button("▶", words("Later"), () => go(1))];
    const bar = make("div", "", earlier, title, later, button(words("Close"), words("Close"), close));
    const root = make("div", "b4m-large", image, bar);
    let place = index;

    function show(next) {
        place = next;
        image.src = pictures[place].url;
        title.textContent = pictures[place].title;
    }
    function close() {
        root.remove();
        document.removeEventListener("keydown", key, true);
    }
    function key(event) {
        if (event.key === "Escape") close();
        else if (event.key === "ArrowLeft") go(-1);
        else if (event.key === "ArrowRight") go(1);
        else return;
        event.stopPropagation();
        event.preventDefault();
    }
    root.addEventListener("click", (event) => event.target === root && close());
    document.addEventListener("keydown", key, true);
    document.body.append(root);
    show(place);
}
