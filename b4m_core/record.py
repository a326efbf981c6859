"""What a run says about how it came to be: ``run.toml`` beside its attempts, from which it can be trained again.

The tables are those of a file of options (configuration.py), and ``was``: what the training found, to be compared.
"""

import contextlib
import hashlib
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from .base_model import BaseModel, OnDisk
from .errors import B4MError
from .metadata import Concept, Facts
from .pictures import PictureSet
from .plan import Plan
from .runs import Run
from .settings import TrainingSettings
from .toml_files import read_toml, toml_text
from .version import VERSION

FILE = "run.toml"
ABOUT = (
    "A training as it was told. To train it again: b4m repeat FOLDER (docs/runs.md).\n"
    "To train something near it: b4m train ROLE --config FILE, with options that win over what stands here."
)
ROLES = {"content": "content", "style": "style", "together": "joint"}
"""What a record and the command line call the trainings of trainings.py."""
CALLER_S = ("adapters", "model", "samples", "run")
"""Tables that plan and base model do not know, or not whole."""
LIBRARIES = ("diffusers", "transformers", "safetensors", "numpy", "pillow")


def record_of(plan: Plan, base: BaseModel) -> dict[str, Any]:
    """The record of a training as nested plain values, as far as its plan and its base model know: pictures that came
    over a wire have no folder, and a model that a host loaded has no file.
    """
    return {
        "role": ROLES.get(plan.role, plan.role),
        "settings": plan.settings.as_dict(),
        **{table: _readable_again(pictures) for table, pictures in primary_sets(plan).items()},
        "auxiliary": _auxiliary(plan),
        "model": _model(base),
        "was": {
            "key": plan.key(base),
            "name": base.name,
            "fingerprint": base.fingerprint,
            "network": base.network_fingerprint,
            "start": None if plan.start is None else plan.start.digest(),
            "sets": {table: _found(pictures) for table, pictures in primary_sets(plan).items()},
            "auxiliary": [digest_of(pictures) for pictures in auxiliary_sets(plan)],
            "versions": versions(),
        },
    }


def record_of_adapter(facts: Facts) -> dict[str, Any]:
    """What the header of an adapter knows of its training, as a record: the settings and the words, no folder."""
    known = TrainingSettings.__dataclass_fields__
    concepts = {"content": facts.content, "style": facts.style}
    own = {"pictures": concepts[facts.role]} if facts.role in concepts else {f"{role}_pictures": each for role, each in concepts.items()}
    words = {table: each for table, each in own.items() if each is not None}
    return {
        "role": ROLES.get(facts.role, facts.role),
        "settings": {name: value for name, value in facts.settings.items() if name in known} | {"steps": facts.steps or None},
        **{table: {"trigger": each.trigger, "class": each.class_word} for table, each in words.items()},
        "was": {
            "name": facts.base_name,
            "network": facts.base,
            "sets": {table: {"prompts": each.prompts} for table, each in words.items()},
        },
    }


def joined(record: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """The record with what only its caller knows: a table's keys beside and over those of the same table."""
    result = dict(record)
    for name, value in told.items():
        mine = result.get(name)
        result[name] = joined(mine, value) if isinstance(value, Mapping) and isinstance(mine, Mapping) else value
    return result


def keep_record(run: Run, record: Mapping[str, Any], tell: Callable[[str], None]) -> None:
    """Write the record of a run beside its attempts; what only an earlier caller knew of it stays. A record that cannot
    be written is told, and ends no training.
    """
    before: dict[str, Any] = {}
    with contextlib.suppress(B4MError):  # there is none yet, or none that can be read
        values = read_toml(run.folder / FILE).values
        before = {name: values[name] for name in CALLER_S if isinstance(values.get(name), dict)}
    try:
        run.keep_text(FILE, toml_text(joined(joined(record, before), record), ABOUT))  # in the record's own order
    except B4MError as error:
        tell(f"How this was trained could not be noted in {FILE}; training goes on. {error}")


def primary_sets(plan: Plan) -> dict[str, PictureSet]:
    """The sets that are taught, by the names of their tables."""
    if plan.role == "together":
        return {"content_pictures": plan.pictures, "style_pictures": plan.others[0]}
    return {"pictures": plan.pictures}


def auxiliary_sets(plan: Plan) -> tuple[PictureSet, ...]:
    """The sets that stand beside those that are taught."""
    return plan.others[1:] if plan.role == "together" else plan.others


def digest_of(pictures: PictureSet) -> str:
    """sha256 over all that training sees of a set: its pictures in their order, captions, masks and words."""
    text = "|".join([pictures.trigger, pictures.class_word, *(picture.digest() for picture in pictures.pictures)])
    return hashlib.sha256(text.encode()).hexdigest()


def versions() -> dict[str, str]:
    """What decides about the last digits of a training."""
    found = {"b4m": VERSION, "python": platform.python_version(), "torch": str(torch.__version__)}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def difference(was: Mapping[str, Any], plan: Plan, base: BaseModel, same_reader: bool) -> str:
    """Why a training is another one than its record's, in a sentence; nothing where it is the same.

    ``same_reader``: the model was read by the same program, so that its whole fingerprint can be compared and not that
    of its network alone.
    """
    for table, pictures in primary_sets(plan).items():
        told = was.get("sets", {}).get(table, {})
        if told.get("digest") and told["digest"] != digest_of(pictures):
            return _other_pictures(table, told, pictures)
    others = auxiliary_sets(plan)
    own = [each.source.folder for each in others if each.source is not None]
    if own and was.get("auxiliary", [digest_of(each) for each in others]) != [digest_of(each) for each in others]:
        return f"The auxiliary pictures in {own[0]} are not those of the record: bring them back, or name those with --auxiliary."
    now = base.fingerprint if same_reader else base.network_fingerprint
    if now != was.get("fingerprint" if same_reader else "network", now):
        return f"The model {base.name} is not the one of the record, {was.get('name') or 'another'}: name that one with --model."
    if plan.start is not None and was.get("start") not in (None, plan.start.digest()):
        return "The adapters are not those that the recorded training began with: name those with --content-adapter and --style-adapter."
    return ""


def _other_pictures(table: str, told: Mapping[str, Any], pictures: PictureSet) -> str:
    what = table.replace("_", " ")
    place = f" in {pictures.source.folder}" if pictures.source else ""
    before = dict(zip(told.get("names", ()), told.get("digests", ()), strict=False))
    now = {picture.name: picture.digest()[:16] for picture in pictures.pictures}
    gone = [name for name in before if name not in now]
    new = [name for name in now if name not in before]
    changed = [name for name in now if name in before and before[name] != now[name]]
    said = [f"{_some(names)} {word}" for names, word in ((gone, "missing"), (new, "new"), (changed, "changed")) if names]
    detail = "; ".join(said) or "their order or their words are others"
    return (
        f"The {what}{place} are not those of the record ({detail}): bring them back, or train these with "
        f"train {'joint' if '_' in table else 'ROLE'} --config."
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _readable_again(pictures: PictureSet) -> dict[str, Any]:
    source = pictures.source
    read = {"folder": source.folder, "caption": source.pattern, "masks": source.use_masks} if source else {}
    return {**read, "trigger": pictures.trigger, "class": pictures.class_word}


def _found(pictures: PictureSet) -> dict[str, Any]:
    concept: Concept = pictures.concept()
    return {
        "digest": digest_of(pictures),
        "names": [picture.name for picture in pictures.pictures],
        "digests": [picture.digest()[:16] for picture in pictures.pictures],
        "prompts": concept.prompts,
    }


def _auxiliary(plan: Plan) -> dict[str, Any]:
    """How many sets were painted, or the folder that they were read from; of a joint training for either kind."""
    together, others = plan.role == "together", auxiliary_sets(plan)
    painted = [each for each in others if each.source is None]
    counts = [sum(each.kind == kind for each in painted) for kind in {each.kind for each in painted}]
    result: dict[str, Any] = {"sets": max(counts, default=0), "pictures": max((len(each.pictures) for each in painted), default=0)}
    for kind, name in (("styles", "content_folder"), ("contents", "style_folder")):
        folders = _folders(each for each in others if each.kind == kind)
        if folders:
            result[name if together else "folder"] = folders[0]
    return result


def _folders(sets: Iterable[PictureSet]) -> list[Any]:
    return list(dict.fromkeys(each.source.folder for each in sets if each.source is not None))


def _model(base: BaseModel) -> dict[str, Any]:
    read = {"path": base.folder.resolve(), "tokenizer": base.tokenizer} if isinstance(base, OnDisk) else {}
    return {**read, "device": base.device.type, "dtype": str(base.dtype).removeprefix("torch.")}
