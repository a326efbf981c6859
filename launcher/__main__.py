"""The second stage: runs inside the launcher's own environment."""

import sys

from . import actions, commands

sys.exit(commands.run(sys.argv[1:], actions.do))
