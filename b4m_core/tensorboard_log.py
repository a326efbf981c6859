"""A training in TensorBoard, for those who have it installed; the log in the run's folder (step_log.py) needs nothing."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .errors import B4MError
from .training import Progress


class TensorBoardLog:
    """Writes the losses of one training below ``folder``, and the samples that were kept of it.

    Raises :class:`B4MError` where TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise B4MError(
                "--tensorboard needs the package tensorboard: pip install tensorboard, or leave the option out; the run's "
                "log.jsonl has the same losses."
            ) from error
        self._open, self.folder = SummaryWriter, folder
        self._writer: Any = None
        self._shown: set[int] = set()

    def watch(self, progress: Progress) -> None:
        """Write what the newest step found; at first what was found before it, in place of what is there of this run."""
        if not progress.step_done or progress.attempt is None:
            return
        new = progress.losses[-1:]
        if self._writer is None:
            run = progress.attempt.folder.parent.name
            self._writer = self._open(str(self.folder / run), purge_step=0)
            new = progress.losses
        for step, trained, others in new:
            self._writer.add_scalar("loss/train rows", trained, int(step))
            self._writer.add_scalar("loss/other rows", others, int(step))
        for step in set(progress.attempt.steps_of("sample")) - self._shown:
            self._shown.add(step)
            pixels = np.asarray(Image.open(progress.attempt.path("sample", step)).convert("RGB"))
            self._writer.add_image("sample", pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()
