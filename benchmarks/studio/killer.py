"""``python -m benchmarks.studio.killer STORE PROCESS``: kills a worker as soon as its training has kept a state."""

import sys
from pathlib import Path

from .accidents import kill_when_saved

if __name__ == "__main__":
    kill_when_saved(Path(sys.argv[1]), int(sys.argv[2]))
