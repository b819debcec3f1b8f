"""The C library's allocator keeps what a forward pass frees: the next one needs as much.

By itself glibc gives large blocks back to the kernel and gets them anew, page by page, with zeros in them; in threads
other than the first even moderate ones. Measured: a small transformer's batch of 64 took 7,600 page faults in the
model's thread, and a third more time.
"""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of <malloc.h>
_KEPT_BYTES = 1 << 30


def keep_freed() -> None:
    """To be called before there are threads of ours. Nothing where the C library is another than glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for setting, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _KEPT_BYTES), (_TRIM_THRESHOLD, _KEPT_BYTES)):
        mallopt(setting, value)


def give_back() -> None:
    """What is free now, once: loading needs more than serving does."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
