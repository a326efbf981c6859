"""B4M outside ComfyUI: one command for everything.

    python b4m.py demo       trains on the shipped pictures inside a real ComfyUI and ends with a contact sheet
    python b4m.py comfyui    starts a ComfyUI with B4M in it, for playing
    python b4m.py test       runs every test there is (--fast: without the real server and the real page)
    python b4m.py train      trains from the command line: content, style or joint
    python b4m.py repeat     trains again what a run's own record says
    python b4m.py generate   paints with trained adapters
    python b4m.py list       names adapters; inspect, merge, split, convert and resize work on them
    python b4m.py studio     trains many contents and styles by a plan, on all cards
    python b4m.py runs       lists what is kept of trainings; --prune removes the oldest
    python b4m.py bench      measures: speed beside others, or quality on the embedded model

demo, comfyui and test take `--comfyui PATH` for a ComfyUI that is already there. Only a Python is needed: the first call makes
its own environments in the folder `.b4m`. This file stays readable for any Python from 3.6 on, so that a Python that is too old
says so in a sentence and not in a syntax error.
"""

import os
import sys

OLDEST, NEWEST = (3, 10), (3, 13)


def complaint_about_python(version: tuple) -> str:
    """One sentence on what to do when this Python is too old or too new for B4M; empty when it is fine."""
    if OLDEST <= tuple(version[:2]) <= NEWEST:
        return ""
    word = "old" if tuple(version[:2]) < OLDEST else "new"
    advice = "install Python 3.10, 3.11, 3.12 or 3.13 and start b4m.py with it, for example `python3.12 b4m.py demo`"
    return "Python {}.{} is too {} for B4M: {}.".format(version[0], version[1], word, advice)


def main(arguments: list) -> int:
    """Hands over to the launcher once the Python is known to understand it."""
    complaint = complaint_about_python(sys.version_info)
    if complaint:
        sys.stderr.write("b4m: " + complaint + "\n")
        return 1
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
    from launcher.commands import run

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
