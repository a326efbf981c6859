"""The tasks of a plan on many workers, by Dask's scheduler (``distributed``): one task takes one card, a worker that dies
is started again and its task goes on from its last save on whichever worker is free.

This is the only file that imports Dask, and it is only imported when more than one worker is asked for. Dask starts the
worker processes and lets them speak to each other; what they say is pickled, so that its port is on this machine alone
unless a person starts a cluster of their own (SECURITY.md).
"""

import contextlib
import functools
import logging
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask
from distributed import Client, Nanny, Scheduler, SpecCluster, WorkerPlugin, as_completed, get_worker
from distributed.scheduler import KilledWorker

from ..errors import B4MError
from . import stopping
from .place import Place, Tell
from .tasks import Result, Task, perform

CARD = "card"
"""The resource that every task takes one of, and every worker has one of."""
_TOPIC = "b4m"
_CONFIG = {
    "distributed.scheduler.allowed-failures": 2,
    "distributed.worker.daemon": True,
    "logging.distributed": "critical",
    "distributed.admin.log-length": 1000,
}
_SECONDS_TO_JOIN, _SECONDS_TO_STOP = 30, 120.0


@dataclass(frozen=True)
class Seat:
    """A worker to be started: its ``name``, and the ``environment`` that shows it its card."""

    name: str
    environment: Mapping[str, str]


class _Quiet(WorkerPlugin):  # type: ignore[misc]
    """Workers do not hear Ctrl-C, which a terminal sends to them too: the command tells them to stop."""

    def setup(self, worker: Any) -> None:
        with contextlib.suppress(ValueError):  # a worker of somebody else's cluster may not run in its main thread
            signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def started(seats: Sequence[Seat], scratch: str) -> Iterator[Any]:
    """A cluster of one worker for each seat on this machine, and its status page at port 8787 or a free one.

    ``scratch``: a folder for what Dask itself writes. All of it ends with the block.
    """
    options = {"nthreads": 1, "resources": {CARD: 1}, "memory_limit": 0}
    options |= {"local_directory": scratch, "silence_logs": logging.CRITICAL}
    workers = {seat.name: {"cls": Nanny, "options": {**options, "env": dict(seat.environment)}} for seat in seats}
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard": True, "dashboard_address": "127.0.0.1:8787"}}
    _silence_dask()
    warnings.filterwarnings("ignore", "Port .* is already in use")  # the page takes another, whose address is printed
    with (
        dask.config.set(_CONFIG),
        SpecCluster(workers=workers, scheduler=scheduler, silence_logs=logging.CRITICAL) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(_Quiet())
        yield client


def _silence_dask() -> None:
    """What Dask logs about its own work is of no use to an artist; what goes wrong with a task is in its result."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


@contextlib.contextmanager
def joined(address: str) -> Iterator[Any]:
    """A cluster that exists. Raises :class:`B4MError` where there is none, or none of its workers has a card to give."""
    _silence_dask()
    try:
        client = Client(address, timeout=_SECONDS_TO_JOIN)
    except (OSError, ValueError, TypeError) as error:
        raise B4MError(
            f"No scheduler answers at {address} ({type(error).__name__}): start one with `dask scheduler` and give the address that "
            "it prints."
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=_SECONDS_TO_JOIN)
            offers = client.run(_offers)
        except TimeoutError as error:
            raise B4MError(f"The cluster at {address} has no worker: start some with --nthreads 1 --resources {CARD}=1.") from error
        except ImportError as error:
            raise B4MError(f"The workers at {address} lack B4M ({error}): install it for them with pip install.") from error
        if not any(offers.values()):
            raise B4MError(f"No worker at {address} offers a {CARD}: start each with --nthreads 1 --resources {CARD}=1.")
        yield client


def _offers(dask_worker: Any) -> float:
    """How many cards a worker has to give."""
    return float(dask_worker.state.total_resources.get(CARD, 0))


def run(client: Any, tasks: Sequence[Task], place: Place, tell: Tell) -> Iterator[Result]:
    """All tasks on the workers, as they come to their ends. Ctrl-C lets those at work keep what they have, then goes on."""
    client.subscribe_topic(_TOPIC, lambda event: tell(str(event[1])))
    futures: dict[str, Any] = {}
    for number, task in enumerate(tasks):
        needs = [futures[name] for name in task.needs]
        futures[task.name] = client.submit(
            _work, task, place, needs, key=f"{task.name.split()[0]}-{task.name}", pure=False, resources={CARD: 1}, priority=-number
        )
    names = {future.key: name for name, future in futures.items()}
    try:
        for future in as_completed(list(futures.values())):
            yield _result(names[future.key], future)
    except KeyboardInterrupt:
        tell("Stopping: the trainings at work keep what they have ...")
        client.run(stopping.stop, place.session)
        _wait_until_idle(client)
        raise


def status_page(client: Any) -> str:
    """The address of Dask's own page about the cluster."""
    return str(client.dashboard_link)


def _wait_until_idle(client: Any) -> None:
    stop = time.monotonic() + _SECONDS_TO_STOP
    while time.monotonic() < stop and any(client.processing().values()):
        time.sleep(0.2)


def _work(task: Task, place: Place, before: list[Result]) -> Result:
    """One task on a worker; what it says goes to whoever listens."""
    worker = get_worker()
    return perform(task, place, before, functools.partial(_tell, worker.log_event, f"{task.name} (worker {worker.name})"))


def _tell(log_event: Callable[[str, str], None], what: str, line: str) -> None:
    log_event(_TOPIC, f"{what}: {line}")


def _result(name: str, future: Any) -> Result:
    """What a future says, also when its worker died again and again."""
    error = future.exception() if future.status == "error" else None
    if error is None:
        return future.result()  # type: ignore[no-any-return]
    if isinstance(error, KilledWorker):
        return Result(name, error="Its worker died each time that it was tried: see whether memory runs out.")
    return Result(name, error=f"It ended by an unexpected {type(error).__name__}: {error}")
