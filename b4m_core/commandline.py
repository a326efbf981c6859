"""B4M without a graph, for scripts: ``b4m train content ...``, ``b4m generate ...``, and the verbs for adapters
(verbs.py). The words are in options.py.

The same loop, the same settings and the same files as the nodes.
"""

import argparse
import dataclasses
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from . import verbs
from .adapter import Adapter
from .auxiliary import BESIDE, own_auxiliary, sample_auxiliary
from .caption_notes import plain_text_note
from .carried import Carried, in_words
from .compact_format import COMPACT_ENDING
from .compose import base_note, merge, sum_note
from .concepts import check_apart, check_together
from .configuration import as_repeated, configuration_of, missing, read_configuration, record_file, role_of
from .errors import B4MError
from .foreign import USES
from .learned_words import shared_words_note
from .loading import load_model
from .options import parser
from .painting import as_image, paint
from .pictures import PictureSet, load_folder
from .plan import Plan
from .process_group import joined
from .quiet import quiet_libraries
from .record import difference
from .remarks import enlarged
from .run_store import RunStore
from .runs import Run
from .saving import LORA_ENDING, require_ending
from .set_words import fill_prompt, words_of
from .settings import TrainingSettings
from .several import ALONE
from .tensorboard_log import TensorBoardLog
from .toml_files import toml_text
from .training import Progress, assist, take, train

if TYPE_CHECKING:
    from .diffusers_folder import DiffusersFolder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a :class:`B4MError` becomes its sentence and exit code 1."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("b4m").setLevel(logging.INFO)
    processes, said, code = ALONE, "", 0
    try:
        options = _parsed(sys.argv[1:] if arguments is None else arguments)
        with joined(os.environ) as processes:
            if processes.count > 1 and options.run is not _train:
                raise B4MError("Only train is shared out over several processes: start this command without torchrun or accelerate launch.")
            options.processes = processes
            options.run(options)
    except B4MError as error:
        said, code = f"b4m: {error}", 1
    except OSError as error:
        said, code = f"b4m: {error.filename or 'a file'} could not be read or written ({error.strerror or error}).", 1
    except KeyboardInterrupt:
        said, code = "b4m: stopped; what was trained is kept, the same command goes on from there.", 130
    if said and processes.leads:
        print(said, file=sys.stderr)
    return code


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    """The options as they were given, over those of a file that ``--config`` names; ``repeat`` is a training whose file
    is its record.
    """
    whole = parser({"train": _train, "repeat": _train, "runs": _runs, "generate": _generate})
    options = whole.parse_args(words)
    repeated = "record" in options
    if repeated:
        record = record_file(options.record)
        words = ["train", role_of(record), "--config", str(record), *options.words]
        options = whole.parse_args(words)
    if getattr(options, "config", None) is not None:
        values = read_configuration(options.config, options.role)
        options.parser.set_defaults(**(as_repeated(values, options.config) if repeated else {**values, "was": None}))
        options = whole.parse_args(words)
    return options


def _train(options: argparse.Namespace) -> None:
    if options.print_config:
        print(toml_text(configuration_of(options)), end="")
        return
    if absent := missing(options):
        if options.was is None:
            options.parser.error(f"the following arguments are required: {', '.join(absent)}")
        raise B4MError(
            f"{options.record} does not say all that a training needs, since ComfyUI or a script gave it without a file's name: add "
            f"{', '.join(absent)}."
        )
    require_ending(options.out, COMPACT_ENDING if options.compact else LORA_ENDING)  # before anything is trained
    if options.compact and options.textual_inversion and options.role != "joint":
        raise B4MError("A compact file has no place for learned words: leave out --compact or --textual-inversion.")
    options.board = None if options.tensorboard is None else TensorBoardLog(options.tensorboard)
    if options.role == "joint":
        _train_together(options)
    else:
        _train_one(options)


def _base(options: argparse.Namespace) -> "DiffusersFolder":
    """The model, with its libraries told to be silent."""
    quiet_libraries()
    device = options.processes.device(options.device)
    return load_model(options.model, tokenizer=options.tokenizer, device=device, dtype=getattr(torch, options.dtype))


def _settings(options: argparse.Namespace, base: "DiffusersFolder") -> TrainingSettings:
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(TrainingSettings)}
    if values["resolution"] is None:
        values["resolution"] = base.native_size
    return TrainingSettings(**values)


def _pictures(options: argparse.Namespace, prefix: str) -> PictureSet:
    trigger, class_word, pattern, masks = (getattr(options, prefix + name) for name in ("trigger", "class_word", "caption", "masks"))
    folder = getattr(options, prefix + "pictures")
    pictures = load_folder(folder, trigger=trigger, class_word=class_word, pattern=pattern, use_masks=masks)
    verbs.note(pictures.notes, plain_text_note(pictures.prompts()))
    return pictures


def _auxiliary(
    options: argparse.Namespace, base: "DiffusersFolder", role: str, folder: Path | None, side: int
) -> tuple[PictureSet, ...]:
    """What stands beside the pictures of ``role``: the artist's own in ``folder``, or else painted ones of ``side``
    pixels.
    """
    kind = BESIDE[role]
    if folder is not None:
        return own_auxiliary(folder, kind)
    sets, pictures = options.auxiliary_sets, options.auxiliary_pictures
    return sample_auxiliary(
        base, kind, sets=sets, pictures=pictures, resolution=side, cache=options.store, processes=options.processes
    )


def _train_one(options: argparse.Namespace) -> None:
    base = _base(options)
    settings = _settings(options, base)
    pictures = _pictures(options, "")  # what is wrong with them is said before anything is painted
    others = _auxiliary(options, base, options.role, options.auxiliary, settings.resolution)
    verbs.note(check_apart(options.role, pictures, others, settings.correspondence), enlarged(pictures.pictures, settings.resolution))
    _run(Plan(options.role, pictures, others, settings), base, options)


def _train_together(options: argparse.Namespace) -> None:
    base = _base(options)
    content, style = (verbs.loaded(getattr(options, f"{role}_adapter"), role) for role in ("content", "style"))
    start = merge(content, style)
    _say_other_base(base, content, style)
    worn = [f"worn during the training, and not trained: {in_words(start.carried)}."] if start.carried else []
    verbs.note(sum_note(content, style), shared_words_note(content, style), worn)
    base.wear(start.carried, {})
    if options.textual_inversion:
        verbs.note(["training together learns no words (--textual-inversion): it wears those of its two adapters as they are."])
    settings = dataclasses.replace(_settings(options, base), **start.facts.common(), textual_inversion=False)
    pictures, drawn = _pictures(options, "content_"), _pictures(options, "style_")
    taught = content.facts.content, style.facts.style
    verbs.note(check_together(pictures, drawn, taught, (), ()))
    beside: list[tuple[PictureSet, ...]] = []
    for role, folder in (("content", options.content_auxiliary), ("style", options.style_auxiliary)):
        # as published there are none, so none are painted
        wanted = settings.correspondence == "output_preservation" or folder is not None
        beside.append(_auxiliary(options, base, role, folder, settings.resolution) if wanted else ())
    check_together(pictures, drawn, taught, *beside)
    plan = Plan("together", pictures, (drawn, *beside[0], *beside[1]), settings, start)
    _run(plan, base, options, start.carried)


def _run(plan: Plan, base: "DiffusersFolder", options: argparse.Namespace, carried: Sequence[Carried] = ()) -> None:
    store, processes = RunStore(options.store), options.processes
    if processes.count > 1 and options.take:
        raise B4MError("--take writes what is trained by now: start it without torchrun or accelerate launch.")
    if not processes.leads:
        return assist(plan, base, processes)
    if options.was is not None:
        _require_the_same(plan, base, options)
    if options.take:
        adapter = take(plan, base, store, tell=_print_note)
    else:
        if options.keep_every < 0:
            raise B4MError(f"--keep-every is {options.keep_every}: it must be at least 0.")
        adapter = _trained(plan, base, store, options)
    adapter = adapter.carrying((*adapter.carried, *carried))
    verbs.save(adapter.compacted() if options.compact else adapter, options.out)


def _trained(plan: Plan, base: "DiffusersFolder", store: RunStore, options: argparse.Namespace) -> Adapter:
    told = {name: table for name, table in configuration_of(options).items() if name != "settings"}
    board: TensorBoardLog | None = options.board

    def watch(progress: Progress) -> None:
        _print_progress(progress)
        _keep_sample(progress, plan, base, options)
        if board is not None:
            board.watch(progress)

    try:
        return train(
            plan,
            base,
            store,
            watch,
            retrain=options.retrain,
            keep_every=options.keep_every,
            tell=_print_note,
            told=told,
            processes=options.processes,
        )
    finally:
        if board is not None:
            board.close()


def _keep_sample(progress: Progress, plan: Plan, base: "DiffusersFolder", options: argparse.Namespace) -> None:
    """Paint with what is learned by now, and keep it beside the run; what does not fit is noted, and ends no training."""
    every, adapter, attempt = options.sample_every, progress.adapter, progress.attempt
    due = every > 0 and (progress.step % every == 0 or progress.step == progress.total)
    if not (progress.step_done and due) or adapter is None or attempt is None:
        return
    prompt = options.sample_prompt or plan.pictures.pictures[0].caption
    try:
        pixels = paint(base, prompt, adapter, seed=plan.settings.seed)
        attempt.keep_sample(pixels, progress.step, loss=progress.losses[-1][1], prompt=prompt)
    except (B4MError, RuntimeError) as error:  # as torch says that memory has run out
        _print_note(f"the sample at step {progress.step} was skipped: {str(error).splitlines()[0]}")


def _require_the_same(plan: Plan, base: "DiffusersFolder", options: argparse.Namespace) -> None:
    """Raise B4MError where this cannot be the recorded training; say where it is another run all the same."""
    reason = difference(options.was, plan, base, options.same_reader)
    if reason:
        raise B4MError(reason)
    if options.was.get("key", "") != plan.key(base):
        _print_note("this is another run than the recorded one, by its options, device, program or painted pictures: the bytes may differ.")


def _runs(options: argparse.Namespace) -> None:
    store = RunStore(options.store)
    if options.log is not None:
        return _print_log(store, options.log)
    if options.prune is not None:
        if options.prune != -1 and not 0 <= options.prune < 1e9:
            raise B4MError(f"--prune is {options.prune:g}: say how many GB may stay, such as 5.")
        removed = store.prune(store.most_bytes if options.prune == -1 else int(options.prune * 1e9))
        print(f"{removed.entries} removed, {removed.bytes / 1e6:.0f} MB freed")
    entries = store.entries()
    for entry in reversed(entries):
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        steps = f"step {Run(entry.path).reach()}" if entry.path.is_dir() else "painted picture"
        print(f"{entry.path.name}  {used}  {entry.bytes / 1e6:8.1f} MB  {steps}")
    total = sum(entry.bytes for entry in entries)
    print(f"{store.root}: {total / 1e6:.0f} MB of at most {store.most_bytes / 1e9:g} GB")


def _print_log(store: RunStore, key: str) -> None:
    run = store.find(key)
    if run is None:
        raise B4MError(f"{store.root} holds no run {key}: b4m runs lists those that there are.")
    for row in run.log():
        print(json.dumps(row))


def _print_note(sentence: str) -> None:
    verbs.note([sentence])


def _print_progress(progress: Progress) -> None:
    if progress.step_done and (progress.step % 10 == 0 or progress.step == progress.total):
        _, trained, others = progress.losses[-1]
        left = "" if progress.seconds_left is None else f", {progress.seconds_left:.0f} s left"
        print(
            f"step {progress.step} of {progress.total}: loss {trained:.4f}, others {others:.4f}{left}", file=sys.stderr
        )


def _say_other_base(base: "DiffusersFolder", *adapters: Adapter) -> None:
    for adapter in adapters:
        verbs.note(base_note(adapter, base.network_fingerprint, base.name))


def _generate(options: argparse.Namespace) -> None:
    if options.out.suffix.lower() not in Image.registered_extensions():
        raise B4MError(
            f"{options.out.name} has no ending that says which kind of picture it is: use .png, for example."
        )
    base = _base(options)
    size = options.size or base.native_size
    if size < 32 or size % 32:
        raise B4MError(f"--size is {size}: choose a multiple of 32.")
    uses = _for_each("--use-as", options.use_as or [USES[0]], options.adapter)
    sliders = [
        _for_each(f"--{name}", getattr(options, name) or [1.0], options.adapter) for name in ("content", "style", "detail")
    ]
    prompt = options.prompt
    for path, use_as, *strengths in zip(options.adapter, uses, *sliders, strict=True):
        adapter = verbs.loaded(path, use_as)
        _say_other_base(base, adapter)
        base.with_adapter(adapter, *strengths)
        prompt = fill_prompt(prompt, words_of(adapter.facts.content, adapter.facts.style), "the prompt")
    pixels = base.sample(prompt, width=size, height=size, seed=options.seed)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    as_image(pixels).save(options.out)
    print(options.out)


def _for_each(option: str, values: list[Any], adapters: Sequence[Path]) -> list[Any]:
    """One value for each adapter; a single one counts for all."""
    if len(values) not in (1, len(adapters)):
        raise B4MError(f"{option} is there {len(values)} times for {len(adapters)} adapters: give it once, or once for each.")
    return values if len(values) == len(adapters) else values * len(adapters)


if __name__ == "__main__":
    sys.exit(main())
