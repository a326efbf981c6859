"""``python -m b4m_core``: the command line, for torchrun, accelerate launch, and where ``b4m`` is not installed."""

import sys

from .commandline import main

if __name__ == "__main__":
    sys.exit(main())
