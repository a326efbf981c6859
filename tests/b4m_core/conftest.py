"""Lets the tests of the method import their helpers by name, and keeps torch on one thread: tiny networks run faster so."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The file that every training gives when nothing disturbs it."""
    import tiny
    from tiny_training import ROLES, result

    return {role: result(tmp_path_factory.mktemp(role), tiny.plan(role)) for role in ROLES}
