"""A word to the graphics driver that torch does not have, one to the C library and one to Python. The only file that
may call into a library by itself (test_imports.py).
"""

import contextlib
import ctypes
import os

LIBRARY = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
C_LIBRARY = "libc.so.6"  # glibc's name; a Mac and Windows have none of it


def trim_graph_memory(index: int) -> None:
    """Let go of the memory that the driver keeps on card ``index`` for the next graph (cuDeviceGraphMemTrim); nothing
    without a driver.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(LIBRARY).cuDeviceGraphMemTrim(index)


def trim_main_memory() -> None:
    """Let the system have the main memory that glibc keeps of what was freed, gigabytes after a model has moved to a
    card and back (malloc_trim); nothing with another C library, which gives it back by itself.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(C_LIBRARY).malloc_trim(0)


def never_free(held: object) -> None:
    """Keep ``held`` for good, the end of the process included, which would free it and so end in a crash."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(held))
