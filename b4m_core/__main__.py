"""``python -m b4m_core``: the command line, under another name than the installed ``b4m``."""

import sys

from .commandline import main

if __name__ == "__main__":
    sys.exit(main())
