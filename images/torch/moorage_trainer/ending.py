"""SIGTERM: the pod is to go. The workers get the rest of the grace period, and the termination message is written.

torchrun sets handlers of its own once workers run, and a handler of Python waits for whatever C++ is at; the last
word therefore belongs to a thread that is woken by the signal itself.
"""

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

from moorage_store import termination

MESSAGE = "ended by SIGTERM: the pod was deleted, evicted or preempted"
# Pods have 30 s; what is not over by then is killed without a word.
GRACE_SECONDS = 25

_lock = threading.Lock()
_succeeded = False


class Terminated(BaseException):
    """Raised in the main thread at SIGTERM."""


def on_sigterm() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.signal(signal.SIGTERM, _raise)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_last_word, args=(reader,), daemon=True).start()


def finish_first() -> None:
    """From now on SIGTERM does not interrupt: a complete model is about to be published."""
    signal.signal(signal.SIGTERM, lambda *_: None)


def succeeded(**last_words: Any) -> None:
    """The termination message of a success, which a late SIGTERM does not take back."""
    global _succeeded
    with _lock:
        _succeeded = True
        termination.write("Succeeded", "", **last_words)


def _raise(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _last_word(reader: int) -> None:
    while signal.SIGTERM not in os.read(reader, 64):
        pass
    with _lock:
        if not _succeeded:
            termination.write("Terminated", MESSAGE)
    time.sleep(GRACE_SECONDS)
    os._exit(0 if _succeeded else termination.TRANSIENT)
