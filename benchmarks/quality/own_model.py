"""A small contest on your own model and pictures: python b4m.py bench quality --model SDXL_FOLDER --content FOLDER --style FOLDER ...

Three methods with as many pictures through the network, all with output preservation: ours (content and style trained apart and merged),
two LoRAs (the same, from starts that know nothing of each other) and one LoRA of twice the rank on both sets. Each paints the same
prompts from the same seeds. With --vision (a folder of CLIP or DINOv2 in transformers' layout) the pictures are judged by likeness to the
content's and the style's pictures and to the prompt. FOLDER/index.html shows every picture.
"""

import argparse
import dataclasses
import html
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel, CLIPVisionModelWithProjection

from b4m_core import Adapter, B4MError, Plan, RunStore, TrainingSettings, merge, train
from b4m_core.adapter import fresh_layer
from b4m_core.auxiliary import BESIDE, PLACES, sample_auxiliary
from b4m_core.captions import PATTERNS
from b4m_core.diffusers_folder import DiffusersFolder
from b4m_core.likeness import Likeness, likeness
from b4m_core.painted import as_bytes
from b4m_core.pictures import PictureSet, load_folder

TRIGGERS = {"content": "snq", "style": "w@z"}
SETS = 4  # auxiliary sets of every kind, and pictures in each
JPEG = {"quality": 90, "subsampling": 0}


def arguments(parser: argparse.ArgumentParser) -> None:
    """What only this contest asks for."""
    parser.add_argument("--model", type=Path, help="your own SDXL in diffusers' layout: a small contest on it")
    parser.add_argument("--content", type=Path, help="with --model: a folder of pictures of a subject")
    parser.add_argument("--style", type=Path, help="with --model: a folder of pictures in a style, with captions (.txt) or telling names")
    parser.add_argument("--class-word", default="", help="with --model: what the subject is: bear, teapot ...")
    parser.add_argument("--style-caption", default="a {name} in {trigger} style", help="with --model: where a picture has no .txt")
    parser.add_argument("--vision", type=Path, help="with --model: a folder of CLIP or DINOv2 (transformers) to judge with")
    parser.add_argument("--tokenizer", type=Path, help="with --model: CLIP's vocab.json and merges.txt, if the model has none")
    parser.add_argument("--steps", type=int, default=500, help="with --model: steps of each training")
    parser.add_argument("--rank", type=int, default=TrainingSettings.rank)
    parser.add_argument("--resolution", type=int, help="with --model: side of the training pictures (the model's own)")
    parser.add_argument("--seeds", type=int, default=4, help="with --model: pictures of every prompt")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def run(options: argparse.Namespace) -> None:
    """Train, paint, judge and write the page. A run that stops goes on where it was: trainings are kept in FOLDER/store."""
    for name in ("content", "style"):
        if getattr(options, name) is None:
            raise B4MError(f"--model also needs --{name}: name a folder of pictures.")
    dtype = torch.bfloat16 if options.device != "cpu" else torch.float32
    base = DiffusersFolder(options.model, tokenizer=options.tokenizer, device=options.device, dtype=dtype)
    side = options.resolution or base.native_size
    contest = OwnContest(base, options, side)
    places = PLACES[: 2 if options.quick else len(PLACES)]
    subject = f"a {TRIGGERS['content']} {options.class_word}".strip()
    prompts = [f"{subject} {place} in {TRIGGERS['style']} style" for place in places]
    painted = {name: contest.paint(make(), prompts, options.seeds) for name, make in contest.methods().items()}
    judged: dict[str, dict[str, Likeness]] = {}
    if options.vision is not None:
        vision = Vision(options.vision, options.device)
        plain = [f"a {options.class_word or 'picture'} {place}" for place in places]
        judged = {name: contest.judge(vision, pictures, plain) for name, pictures in painted.items()}
    write_page(options.folder, painted, judged, prompts)
    print(options.folder / "index.html")


class OwnContest:
    """One content and one style on one model."""

    def __init__(self, base: DiffusersFolder, options: argparse.Namespace, side: int) -> None:
        self.base, self.side = base, side
        self.store, self.folder = RunStore(options.folder / "store"), options.folder
        words = {"content": options.class_word, "style": ""}
        patterns = {"content": PATTERNS["content"], "style": options.style_caption}
        self.sets = {
            role: load_folder(getattr(options, role), trigger=TRIGGERS[role], class_word=words[role], pattern=patterns[role])
            for role in ("content", "style")
        }
        self.auxiliary = {
            role: sample_auxiliary(base, kind, sets=SETS, pictures=SETS, resolution=side, cache=options.folder / "store")
            for role, kind in BESIDE.items()
        }
        self.settings = TrainingSettings(steps=options.steps, rank=options.rank, resolution=side)

    def methods(self) -> dict[str, Callable[[], Adapter]]:
        return {
            "ours, merged": lambda: merge(self._apart("content"), self._apart("style")),
            "two LoRAs, summed": lambda: merge(self._apart("content"), self._elsewhere()),
            "one LoRA on both": self._on_both,
        }

    def _apart(self, role: str, **changes: int) -> Adapter:
        settings = dataclasses.replace(self.settings, **changes)  # type: ignore[arg-type]
        return train(Plan(role, self.sets[role], self.auxiliary[role], settings), self.base, self.store)

    def _elsewhere(self) -> Adapter:
        """A style trained from a start of its own, told in the parts that the content's basis has for it."""
        other = self._apart("style", basis_seed=self.settings.basis_seed + 1)
        facts = dataclasses.replace(other.facts, basis_seed=self.settings.basis_seed, basis="")
        layers = {}
        with torch.no_grad():
            for name, layer in other.layers.items():
                layers[name] = fresh_layer(facts, name, *layer.shape)
                layers[name].load_lora_factors(*layer.lora_factors(alone="style"), "style")
        return Adapter(layers, facts)

    def _on_both(self) -> Adapter:
        """As large as both together, and as many steps."""
        both = PictureSet(
            (*self.sets["content"].pictures, *self.sets["style"].pictures), TRIGGERS["content"], self.sets["content"].class_word
        )
        settings = dataclasses.replace(self.settings, rank=2 * self.settings.rank, steps=2 * self.settings.steps)
        return train(Plan("content", both, (*self.auxiliary["content"], *self.auxiliary["style"]), settings), self.base, self.store)

    def paint(self, adapter: Adapter, prompts: Sequence[str], seeds: int) -> list[np.ndarray]:
        """A picture (H, W, 3) uint8 of every prompt at every seed, prompt by prompt."""
        adapter = adapter.clone()
        for layer in adapter.layers.values():
            layer.to(self.base.device, self.base.dtype)
        adapter.attach(self.base.unet)
        try:
            made = [self.base.sample(prompt, width=self.side, height=self.side, seed=seed) for prompt in prompts for seed in range(seeds)]
        finally:
            adapter.detach()
        return [as_bytes(picture) for picture in made]

    def judge(self, vision: "Vision", painted: list[np.ndarray], plain: Sequence[str]) -> dict[str, Likeness]:
        ours = vision.embed(painted)
        theirs = {role: vision.embed([picture.pixels for picture in self.sets[role].pictures]) for role in ("content", "style")}
        found = {role: likeness(ours, theirs[role], theirs["style" if role == "content" else "content"]) for role in theirs}
        pooled = self.base.encode_text(plain)[1]
        if pooled.shape[-1] == ours.shape[-1]:  # the vision tower of the model's own text encoder
            each = len(painted) // len(plain)
            parts = [likeness(ours[k * each : (k + 1) * each], pooled[k : k + 1]).each for k in range(len(plain))]
            found["prompt"] = Likeness(tuple(value for part in parts for value in part))
        return found


class Vision:
    """A vision model from a folder in transformers' layout."""

    def __init__(self, folder: Path, device: str) -> None:
        try:
            kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
            own = {"use_safetensors": True, "local_files_only": True}
            made = (CLIPVisionModelWithProjection if kind.startswith("clip") else AutoModel).from_pretrained(folder, **own)
            self.processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise B4MError(f"{folder} is no vision model that transformers reads: name a folder of CLIP or DINOv2 ({error}).") from error
        self.model = made.to(device).eval()

    @torch.no_grad()
    def embed(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """(N, d) float32 on the CPU; pictures (H, W, 3) uint8."""
        vectors = []
        for picture in pictures:
            pixels = self.processor(images=Image.fromarray(picture), return_tensors="pt").pixel_values
            said = self.model(pixel_values=pixels.to(self.model.device))
            vectors.append((said.image_embeds if hasattr(said, "image_embeds") else said.last_hidden_state[:, 0]).float().cpu())
        return torch.cat(vectors)


def write_page(folder: Path, painted: dict[str, list[np.ndarray]], judged: dict[str, dict[str, Likeness]], prompts: Sequence[str]) -> None:
    """FOLDER/index.html, its pictures in FOLDER/pictures, and the numbers in FOLDER/own_model.json."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    rows = [f"<tr><th></th>{''.join(f'<th>{html.escape(name)}</th>' for name in painted)}</tr>"]
    each = len(next(iter(painted.values()))) // len(prompts)
    for place, prompt in enumerate(prompts):
        for seed in range(each):
            cells = []
            for number, pictures in enumerate(painted.values()):
                file = f"pictures/{number}_{place}_{seed}.jpg"
                Image.fromarray(pictures[place * each + seed]).save(folder / file, **JPEG)
                cells.append(f'<td><img src="{file}" loading="lazy"></td>')
            rows.append(f"<tr><td>{html.escape(prompt)}, seed {seed}</td>{''.join(cells)}</tr>")
    marks = [f"<tr><th>{head}</th>{''.join(f'<td>{value}</td>' for value in values)}</tr>" for head, values in _marks(judged)]
    style = "body{font:15px sans-serif;margin:2em}td,th{padding:4px 10px;text-align:left;vertical-align:top}img{width:256px}"
    about = "Nothing is chosen: every picture of every prompt and seed. A cosine is to be read beside the two in brackets: the references "
    about += "to each other, and the other set's pictures to them."
    page = f"<!doctype html><meta charset=utf-8><title>B4M on your model</title><style>{style}</style><h1>On your model</h1><p>{about}</p>"
    (folder / "index.html").write_text(f"{page}<table>{''.join(marks)}</table><table>{''.join(rows)}</table>\n", encoding="utf-8")
    numbers = {name: {key: dataclasses.asdict(one) | {"mean": one.mean} for key, one in found.items()} for name, found in judged.items()}
    (folder / "own_model.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


def _marks(judged: dict[str, dict[str, Likeness]]) -> list[tuple[str, list[str]]]:
    """The table of likeness: a head and its cells for each line."""
    if not judged:
        return [("not judged: name a vision model with --vision", [])]
    names = list(next(iter(judged.values())))
    lines = [("", [_head(name, next(iter(judged.values()))[name]) for name in names])]
    return lines + [(html.escape(method), [f"{found[name].mean:.3f}" for name in names]) for method, found in judged.items()]


def _head(name: str, one: Likeness) -> str:
    known = [f"{value:.3f}" for value in (one.among, one.unlike) if value is not None]
    return f"{name} ({', '.join(known)})" if known else name
