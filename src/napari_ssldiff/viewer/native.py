"""Native libraries that do not get on with each other in a process that has a window."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys


def load_triton_apart() -> None:
    """Load Triton, where it is installed, with its own LLVM. Call this before importing torch.

    Mesa's OpenGL drivers load LLVM for the whole process. Triton, which torch and diffusers
    import, brings an LLVM of another version, and on Linux its calls would end in Mesa's: the
    process dies with a segmentation fault as soon as a window was shown before torch came.
    Bound deeply, a library looks into itself first. Does nothing on other systems, or where
    Triton is loaded already or not installed.
    """
    deep = getattr(os, "RTLD_DEEPBIND", None)
    if deep is None or "triton" in sys.modules or importlib.util.find_spec("triton") is None:
        return
    before = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_NOW | deep)
    try:
        importlib.import_module("triton._C.libtriton")
    except ImportError:
        pass  # torch does without it, and says so where it matters
    finally:
        sys.setdlopenflags(before)
