"""What the other way costs: one joint training for each pair, on the pictures of both, measured on a few pairs.

A joint training here starts from two fresh adapters, sees the pictures of both and the auxiliary pictures of both, and takes as
many steps as a training apart: one pass of it holds the rows of both concepts.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from torch import nn

from b4m_core import Adapter, Facts, Plan, RunStore, merge, train
from b4m_core.auxiliary import sample_auxiliary
from b4m_core.pictures import PictureSet, load_folder
from b4m_core.settings import TrainingSettings
from b4m_core.studio import tasks
from b4m_core.studio.place import Place
from b4m_core.studio.plan_file import Entry, read_plan
from b4m_core.studio.training_task import TrainingWork


def seconds_of_pairs(plan_file: Path, pairs: int, device: str) -> list[float]:
    """Seconds of the joint trainings of the first pairs, (0, 0), (1, 1) and so on, in one process; the first is warm-up and left out."""
    plan = read_plan(plan_file)
    base = Place(plan.model, plan.tokenizer, plan.store, plan.output, device, plan.dtype).base()
    works = {work.entry.name: work for task in tasks.tasks_of(plan, base) if isinstance(work := task.work, TrainingWork)}
    contents, styles = plan.of("content"), plan.of("style")
    found = []
    for number in range(pairs + 1):
        content, style = contents[number % len(contents)], styles[number % len(styles)]
        settings = works[content.name].settings
        others = []
        for work, kind in ((works[content.name], "styles"), (works[style.name], "contents")):
            others += sample_auxiliary(
                base, kind, sets=work.auxiliary_sets, pictures=work.auxiliary_pictures, resolution=settings.resolution, cache=plan.store
            )
        began = time.monotonic()
        start = _fresh(settings, base.network_fingerprint, base.unet)
        made = Plan("together", _pictures(content), (_pictures(style), *others), settings, start)
        train(made, base, RunStore(plan.store.parent / "joint"), retrain=True)
        found.append(time.monotonic() - began)
    return found[1:]


def _pictures(entry: Entry) -> PictureSet:
    return load_folder(entry.folder, trigger=entry.trigger, class_word=entry.class_word, pattern=entry.caption)


def _fresh(settings: TrainingSettings, base: str, unet: nn.Module) -> Adapter:
    """A fresh content and a fresh style, merged."""
    facts = Facts(role="content", rank=settings.rank, split=settings.split, start=settings.start, base=base)
    return merge(*(Adapter.for_unet(unet, dataclasses.replace(facts, role=role)) for role in ("content", "style")))
