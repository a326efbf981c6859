"""A studio on two workers by Dask, where it is installed: the same library as one after the other, also when a worker is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_studio import PLAN, write_studio

from b4m_core import keeping
from b4m_core.commandline import main
from b4m_core.diffusers_folder import DiffusersFolder
from b4m_core.errors import B4MError
from b4m_core.studio import stopping, tasks
from b4m_core.studio.place import Place
from b4m_core.studio.plan_file import StudioPlan, read_plan

pytest.importorskip("distributed")
from b4m_core.studio import cluster  # noqa: E402

STEPS = 60
LONGER = PLAN.replace("steps = 3", f"steps = {STEPS}").replace("settings.steps = 2", "")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> StudioPlan:
    """One content and one style, long enough to be killed in the middle."""
    start, end = LONGER.index("[content.owl]"), LONGER.index("[style.ink]")
    text = LONGER[:start] + LONGER[end : LONGER.index("[style.oil]")]
    return read_plan(write_studio(tmp_path_factory.mktemp("cluster"), text))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two workers on the processor."""
    seats = [cluster.Seat(f"processor {number}", {"CUDA_VISIBLE_DEVICES": ""}) for number in range(2)]
    with cluster.started(seats, str(tmp_path_factory.mktemp("scratch"))) as client:
        yield client


def place_of(plan: StudioPlan, root: Path, session: str = "") -> Place:
    return Place(plan.model, None, root / "store", root / "library", "cpu", "float32", 1, session)


def library_of(root: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((root / "library").glob("*/*.safetensors"))}


def test_a_killed_worker_s_training_goes_on_elsewhere_to_the_same_bytes(plan: StudioPlan, client: Any, tmp_path: Path) -> None:
    todo = tasks.tasks_of(plan, DiffusersFolder(plan.model))
    client.run(setattr, keeping, "SAVE_SECONDS", -1.0)  # the workers keep every step
    said: list[str] = []
    killed: list[int] = []

    def tell(line: str) -> None:
        said.append(line)
        if "training content bear" in line and "begun (process " in line and not killed:
            killed.append(int(line.split("process ")[1].rstrip(")")))
            threading.Thread(target=kill_when_saved, args=(tmp_path / "first" / "store", killed[0])).start()

    results = {each.name: each for each in cluster.run(client, todo, place_of(plan, tmp_path / "first"), tell)}
    assert killed and all(each.done for each in results.values()), [each.error for each in results.values()]
    begun = [line for line in said if "training content bear" in line and "begun" in line]
    assert len(begun) == 2 and f"process {killed[0]}" not in begun[1] and "step 0 of" not in begun[1]
    list(tasks.in_turn(todo, place_of(plan, tmp_path / "second"), said.append))
    assert library_of(tmp_path / "first") == library_of(tmp_path / "second") and len(library_of(tmp_path / "first")) == 2


def kill_when_saved(store: Path, process: int) -> None:
    """Kill it when every training that has begun has kept something."""
    for _ in range(3000):
        begun = [record.parent for record in store.rglob("run.toml")]
        if begun and all(any(run.rglob("*-*.safetensors")) for run in begun):
            os.kill(process, signal.SIGKILL)
            return
        time.sleep(0.02)


def test_workers_that_are_told_to_stop_keep_what_they_have(plan: StudioPlan, client: Any, tmp_path: Path) -> None:
    todo = tasks.tasks_of(plan, DiffusersFolder(plan.model))
    place = place_of(plan, tmp_path, session="this one")

    def tell(line: str) -> None:
        if "begun" in line:
            threading.Thread(target=client.run, args=(stopping.stop, "this one")).start()

    results = list(cluster.run(client, todo, place, tell))
    trainings = [each for each in results if each.name.startswith("training")]
    assert any(not each.done and not each.error for each in trainings) and list((tmp_path / "store").rglob("state-*.safetensors"))


def test_a_scheduler_that_is_there_is_joined_and_one_that_is_not_is_named(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with cluster.joined(client.scheduler.address) as other:
        assert len(other.run(os.getpid)) == 2
    monkeypatch.setattr(cluster, "_SECONDS_TO_JOIN", 1)
    with pytest.raises(B4MError, match="No scheduler answers at tcp://127.0.0.1:9"), cluster.joined("tcp://127.0.0.1:9"):
        pass


def test_workers_without_a_card_to_give_are_refused(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CARD", "gold")
    monkeypatch.setattr(cluster, "_offers", lambda: 0.0)  # has no name, so it is sent whole: workers cannot import a test
    with pytest.raises(B4MError, match="--nthreads 1 --resources gold=1"), cluster.joined(client.scheduler.address):
        pass


def test_the_command_prints_the_status_page_s_address(plan: StudioPlan, client: Any, capsys: pytest.CaptureFixture[str]) -> None:
    text = plan.file.read_text().replace(f"steps = {STEPS}", "steps = 1")
    short = plan.file.with_name("short.toml")
    short.write_text(text)
    assert main(["studio", str(short), "--scheduler", client.scheduler.address]) == 0
    said = capsys.readouterr()
    assert "status page: http" in said.err and "prompt_1_seed_0.jpg" in said.out
