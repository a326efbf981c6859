"""``python -m b4m_core`` with a state kept every second instead of every minute, since a training of the embedded model lasts
seconds. Workers import this file too, so it holds for them.
"""

import sys

import b4m_core.keeping
from b4m_core.commandline import main

b4m_core.keeping.SAVE_SECONDS = 1.0

if __name__ == "__main__":
    sys.exit(main())
