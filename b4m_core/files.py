"""Adapters on disk: an ordinary SDXL LoRA that any loader reads, with the B4M facts in its header.

A compact adapter (``facts.compact``) is written as its taught parts alone (compact_format.py), for B4M's own loader.
The LoRA: Tensors: kohya's key names, ``lora_up.weight`` (m, k), ``lora_down.weight`` (k, n), ``alpha`` = k, so that
every loader's scale is 1; of a convolution as LoCon has them (layers.py). Header: ``b4m`` (the facts as JSON),
``b4m.sha256`` (over those facts and the tensor data; safetensors itself has no checksum) and the ``modelspec.*``,
``ss_*`` and ``sshs_*`` keys that other tools show. No dates: equal adapters give equal bytes.
"""

import dataclasses
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from . import beside, foreign
from .adapter import Adapter, basis_fingerprint, fresh_layer
from .atomic import write_whole
from .bounds import bytes_held, require_possible
from .cards import THUMBNAIL, card
from .carried import in_words
from .compact_format import layers_of, taught_parts
from .container import (
    ForeignFile,
    RewrittenFile,
    plain_tensors,
    read_container,
    read_metadata,
    read_text,
    write_container,
)
from .errors import B4MError
from .finite import first_not_finite, numbers, require_finite
from .layers import as_kernels
from .layouts import ALPHA, DOWN, FOLDER_LAYOUTS, UP, FolderLayout, weights_file
from .metadata import Facts
from .models import family_named
from .projection import PartlyLearnableProjection
from .rewritten import frozen_in, in_our_form
from .splits import CONCEPTS
from .thumbnail import usable


@dataclass(frozen=True)
class FileFormat:
    """One way to lay an adapter down as tensors, and back: another one is one more row of :data:`FORMATS`.

    ``tensors`` gives what is written, CPU, in the adapter's file dtype; ``layers`` (tensors, facts, the file's name for
    people) the projections. ``kind``, ``module`` and ``hint`` are what other tools show.
    """

    tensors: Callable[[Adapter], dict[str, Tensor]]
    layers: Callable[[dict[str, Tensor], Facts, str], dict[str, PartlyLearnableProjection]]
    kind: str
    module: str
    hint: str


def lora_state_dict(
    adapter: Adapter, content: float = 1.0, style: float = 1.0, detail: float = 1.0
) -> dict[str, Tensor]:
    """The adapter as the tensors of a kohya LoRA, on the CPU in the adapter's file dtype, with the strengths worked in:
    of every layer ``lora_up.weight`` (m, k), ``lora_down.weight`` (k, n) and ``alpha`` (), which is k; of a convolution
    (m, k, 1, 1) and (k, c, kernel, kernel).

    What is carried along is in it. Raises :class:`B4MError` where one LoRA cannot say it all (beside.py).
    """
    strengths = {"content": content, "style": style, "detail": detail}
    return beside.written(split_state_dict(adapter, content, style), adapter.carried, strengths)


def split_state_dict(adapter: Adapter, content: float = 1.0, style: float = 1.0) -> dict[str, Tensor]:
    """What :func:`lora_state_dict` gives of the split alone, up (m, k) and down (k, n) of every layer, of convolutions with
    their kernels behind, without what is carried along.
    """
    dtype, family = getattr(torch, adapter.facts.file_dtype), family_named(adapter.facts.family)
    tensors: dict[str, Tensor] = {}
    alone = adapter.alone()
    with torch.inference_mode(False), torch.no_grad():
        for some, parts in adapter.alike():
            factors = some[0].lora_factors(content, style, alone=alone, parts=parts)  # (L, m, k) and (L, k, n)
            for layer, up, down in zip(some, *(factor.to(dtype).cpu() for factor in factors), strict=True):
                key = family.lora_key(layer.name)
                tensors[key + UP], tensors[key + DOWN] = as_kernels(up, down, family.kernel(layer.name))
                tensors[key + ALPHA] = torch.tensor(float(up.shape[1]))  # float32: bfloat16 would round a large rank
    return tensors


def save_adapter(adapter: Adapter, path: str | Path, *, over: bool = True) -> Path:
    """Write ``adapter`` to ``path`` and read it back before it counts. Raises :class:`B4MError`; an older file then
    stays as it was. With ``over`` False an older file is never replaced, also one that comes at the same moment
    (:class:`~b4m_core.atomic.NameTaken`).
    """
    path = Path(path)
    if adapter.carried:
        lora_key = family_named(adapter.facts.family).lora_key
        adapter = adapter.carrying(beside.settled(adapter.carried, {lora_key(name) for name in adapter.layers}))
        adapter = adapter.with_facts(carried=beside.described(adapter.carried))
    tensors = format_of(adapter.facts).tensors(adapter)
    bad = first_not_finite(tensors)
    if bad is not None:
        raise B4MError(
            f"{path.name} was not saved: its layer {bad} holds values that are not numbers; train again with a lower learning rate."
        )
    write_container(
        path,
        tensors,
        adapter.facts.to_json(),
        lambda data_sha256: _other_tools(adapter, path.stem, data_sha256),
        over=over,
    )
    return path


def _other_tools(adapter: Adapter, title: str, data_hash: str) -> dict[str, str]:
    form, rank = format_of(adapter.facts), adapter.facts.factor_rank(adapter.alone())
    entries = card(
        adapter.facts, adapter.shapes(), title=title, kind=form.kind, module=form.module, hint=form.hint, rank=rank, data_hash=data_hash
    )
    return {**entries, **({THUMBNAIL: adapter.thumbnail} if adapter.thumbnail else {})}


def save_in_layout(adapter: Adapter, path: str | Path, layout: str) -> list[Path]:
    """Write ``adapter`` as a file in kohya's layout, or as a folder in one of :data:`FOLDER_LAYOUTS`; gives the files.

    Raises :class:`B4MError` like :func:`save_adapter`.
    """
    path = Path(path)
    if layout not in FOLDER_LAYOUTS:
        return [save_adapter(adapter.with_facts(compact=False, file_format=""), path)]
    if path.suffix == ".safetensors" or path.is_file():
        raise B4MError(f"{path.name} names a file, and the layout {layout} is a folder: name one for it.")
    files = []
    for name in FOLDER_LAYOUTS[layout].with_layouts:
        row, named = FOLDER_LAYOUTS[name], adapter.with_facts(compact=False, file_format=name)
        files.append(save_adapter(named, path / row.file))
        for side, data in row.side_files(format_of(named.facts).tensors(named)).items():
            files.append(write_whole(path / side, data))
    return files


def load_adapter(path: str | Path, use_as: str = "content") -> Adapter:
    """Read an adapter back, from its file or the folder of it, or another tool's LoRA for SDXL, which is taken for a
    ``content``, a ``style`` or ``both`` (foreign/). Raises :class:`B4MError` for a file that is missing, damaged, of
    another kind, or made on another basis.
    """
    path = weights_file(Path(path))
    try:
        text, tensors = read_container(path)
    except ForeignFile:
        return foreign.read(path, use_as)
    except RewrittenFile:
        return _rewritten(path, use_as)
    facts = Facts.from_json(text)
    return _adapter_of(path, _in_kohyas_names(tensors, facts, path.name), facts)


def _in_kohyas_names(tensors: dict[str, Tensor], facts: Facts, shown: str) -> dict[str, Tensor]:
    layout = FOLDER_LAYOUTS.get(facts.file_format)
    return tensors if layout is None else layout.kohya(tensors, family_named(facts.family), shown)


def _adapter_of(path: Path, tensors: dict[str, Tensor], facts: Facts) -> Adapter:
    """The adapter in a file of ours. Raises :class:`B4MError` for values that are not numbers and for another basis."""
    thumbnail = usable(read_metadata(path).get(THUMBNAIL))
    require_finite(tensors, path.name)
    with torch.inference_mode(False):
        tensors, carried = beside.taken_out(tensors, facts.carried, path.name)
        layers = format_of(facts).layers(tensors, facts, path.name)
    if not layers and not carried:
        raise B4MError(f"{path.name} holds an adapter that has no layers: train it again.")
    if not facts.stored_basis and basis_fingerprint(layers) != (facts.basis or basis_fingerprint(layers)):
        raise B4MError(f"{path.name} was made on another basis than this version of B4M draws: train it again.")
    if facts.rounds_frozen and not facts.stored_basis:
        _take_frozen(layers, tensors, facts, path.name)
    return Adapter(layers, dataclasses.replace(facts, carried=()), carried, thumbnail=thumbnail).clone()


def _take_frozen(
    layers: Mapping[str, PartlyLearnableProjection], tensors: Mapping[str, Tensor], facts: Facts, shown: str
) -> None:
    """Let the frozen parts be as the file has them, rounded: what every other loader reads."""
    family = family_named(facts.family)
    for name, layer in layers.items():
        key = family.lora_key(name)
        parts = frozen_in(layer, *(tensors[key + factor].flatten(1) for factor in (UP, DOWN)))
        if parts is None:
            raise B4MError(f"{shown} was made on another basis than this version of B4M draws: train it again.")
        for part, value in parts.items():
            getattr(layer, part).copy_(value)


def _rewritten(path: Path, use_as: str) -> Adapter:
    """An adapter of ours that another program wrote again, as it is now, with a note."""
    try:
        facts = Facts.from_json(read_text(path))
    except B4MError as error:
        raise B4MError(f"{path.name} was changed by another program and cannot be read. {error}") from error
    tensors = _in_kohyas_names(plain_tensors(path), facts, path.name)
    changed = "another program changed this file since B4M saved it; it is used as it is now"
    same = in_our_form(tensors, facts, path.name)
    if same is not None:
        return _adapter_of(path, *same).noted(f"{changed}.")
    if facts.compact:
        return _adapter_of(path, tensors, facts).noted(f"{changed}.")
    role = facts.role if facts.role in CONCEPTS else use_as
    read = foreign.read(path, role)
    known = {name: getattr(facts, name) for name in ("base", "base_name", "prediction", "steps", "settings", "parents")}
    words = {side: getattr(facts, side) for side in CONCEPTS if getattr(read.facts, side) is not None}
    lost = "" if facts.role in CONCEPTS else f", as {use_as}: its content and its style can no longer be told apart"
    return read.with_facts(**known, **words, origin="").noted(f"{changed}{lost}.")


def read_facts(path: str | Path) -> Facts:
    """The facts of a file, without its tensors (the checksum is not tested)."""
    return Facts.from_json(read_text(Path(path)))


def format_of(facts: Facts) -> FileFormat:
    """The row that a file with these facts is written and read by. Raises :class:`B4MError` for an unknown one."""
    if facts.form not in FORMATS:
        raise B4MError(
            f"This adapter's file has the form {facts.form!r}, and this B4M knows {', '.join(FORMATS)}: update B4M."
        )
    return FORMATS[facts.form]


def _layers_of_lora(tensors: dict[str, Tensor], facts: Facts, shown: str) -> dict[str, PartlyLearnableProjection]:
    """The projections of a LoRA in kohya's names, by module path; the sizes are checked before any is drawn."""
    family = family_named(facts.family)
    keys = {family.module_path(key): key for key in (key.removesuffix(UP) for key in tensors if key.endswith(UP))}
    sizes = {name: _size(tensors, key, family.kernel(name), shown) for name, key in keys.items()}
    require_possible(sizes, facts.rank, family.largest, bytes_held(tensors), shown)

    def projection(name: str) -> PartlyLearnableProjection:
        up, down = (numbers(tensors, keys[name] + factor, shown).flatten(1) for factor in (UP, DOWN))
        return _projection(name, up, down, facts)

    with ThreadPoolExecutor() as pool:  # each draws a basis of its own
        return dict(zip(keys, pool.map(projection, keys), strict=True))


def _size(tensors: dict[str, Tensor], key: str, kernel: int, shown: str) -> tuple[int, int]:
    """(m, n) of a layer, by its two factors."""
    up, down = (numbers(tensors, key + factor, shown) for factor in (UP, DOWN))
    behind = ((1, 1), (kernel, kernel)) if kernel else ((), ())
    if min(up.ndim, down.ndim) < 2 or (up.shape[2:], down.shape[2:]) != behind:
        raise B4MError(f"{shown} is damaged: {key[:80]} is no pair of {'kernels' if kernel else 'matrices'}; download or train it again.")
    return up.shape[0], down[:1].numel()


def _projection(name: str, up: Tensor, down: Tensor, facts: Facts) -> PartlyLearnableProjection:
    """One layer from its up (m, k) and down (k, n). Raises :class:`B4MError` where k does not fit the facts."""
    alone = _alone(up, facts)
    rank = facts.factor_rank(alone)
    if up.ndim != 2 or down.ndim != 2 or up.shape[1] != rank or down.shape[0] != rank:
        raise B4MError(
            f"Layer {name} has factors of shape {tuple(up.shape)} and {tuple(down.shape)}, which do not fit rank {facts.rank}."
        )
    projection = fresh_layer(facts, name, len(up), down.shape[1])
    projection.load_lora_factors(up, down, alone, basis=facts.stored_basis)
    return projection


def _alone(up: Tensor, facts: Facts) -> str:
    """Whether the factors are those of one concept alone (Adapter.alone), told by their rank: its name, else
    nothing.
    """
    row = facts.split_row
    one = (
        facts.role in ("content", "style")
        and not row.frozen
        and not row.cut
        and up.ndim == 2
        and up.shape[1] == facts.rank
    )
    return facts.role if one else ""


def _in_a_folder(layout: FolderLayout) -> FileFormat:
    def tensors(adapter: Adapter) -> dict[str, Tensor]:
        if adapter.carried:
            raise B4MError(f"This layout has no place for what the adapter carries along ({in_words(adapter.carried)}): choose kohya.")
        return layout.named(split_state_dict(adapter), family_named(adapter.facts.family))

    return FileFormat(tensors, _layers_of_lora, "lora", "peft.LoraModel", "For diffusers and PEFT; ComfyUI wants kohya's layout.")


FORMATS = {
    "lora": FileFormat(
        lora_state_dict, _layers_of_lora, "lora", "networks.lora", "In ComfyUI, B4M's own loader has two sliders."
    ),
    "compact": FileFormat(
        taught_parts, layers_of, "b4m-compact", "b4m-compact", "It holds only what was taught: load it with B4M."
    ),
    **{name: _in_a_folder(layout) for name, layout in FOLDER_LAYOUTS.items()},
}
"""By the name that the facts give (:attr:`Facts.form`)."""
