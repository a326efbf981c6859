"""A word to the graphics driver that torch does not have, and one to Python. The only file that may call into a library by itself
(test_imports.py).
"""

import contextlib
import ctypes
import os

LIBRARY = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"


def trim_graph_memory(index: int) -> None:
    """Let go of the memory that the driver keeps on card ``index`` for the next graph (cuDeviceGraphMemTrim); nothing without a driver."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(LIBRARY).cuDeviceGraphMemTrim(index)


def never_free(held: object) -> None:
    """Keep ``held`` for good, the end of the process included, which would free it and so end in a crash."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(held))
