"""The output of the workers of this pod: passed on to the pod's log, and its last lines kept for the last words.

Each worker writes into a pipe with a name, which torchrun takes for a log file. Files would fill the node's disk
in a long training, and torchrun's own `--tee` writes such files.
"""

import os
import selectors
import threading
from collections import deque
from pathlib import Path

from torch.distributed.elastic.multiprocessing import LogsSpecs
from torch.distributed.elastic.multiprocessing.api import LogsDest

LINES, LINE_BYTES = 60, 1000


class Output(LogsSpecs):
    """torchrun's place for logs. `tail` may be asked for at any time, `close` once at the end."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self._folder = folder
        self._pipes: dict[int, _Pipe] = {}
        self._selector = selectors.DefaultSelector()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._forward, daemon=True)

    @property
    def root_log_dir(self) -> str:
        return str(self._folder)

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Called by torchrun when it starts the workers of this pod: a destination for each local rank."""
        paths: dict[int, str] = {}
        errors: dict[int, str] = {}
        for local_rank, env in envs.items():
            path = self._folder / f"output-{local_rank}"
            path.unlink(missing_ok=True)
            os.mkfifo(path)
            prefix = f"[{env.get('RANK', local_rank)}] ".encode() if len(envs) > 1 else b""
            self._pipes[local_rank] = _Pipe(path, prefix)
            self._selector.register(self._pipes[local_rank], selectors.EVENT_READ)
            paths[local_rank] = str(path)
            errors[local_rank] = env["TORCHELASTIC_ERROR_FILE"] = str(self._folder / f"error-{local_rank}.json")
        if not self._thread.is_alive():
            self._thread.start()
        return LogsDest(stdouts=paths, stderrs=paths, error_files=errors)

    def tail(self, local_rank: int) -> list[str]:
        pipe = self._pipes.get(local_rank)
        return pipe.lines() if pipe else []

    def close(self) -> None:
        """Passes on what is still in the pipes."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def _forward(self) -> None:
        while True:
            last_round = self._ended.is_set()
            ready = self._selector.select(0 if last_round else 0.1)
            for key, _ in ready:
                key.fileobj.forward()  # type: ignore[union-attr]
            if last_round and not ready:
                return


class _Pipe:
    def __init__(self, path: Path, prefix: bytes) -> None:
        # Open to write as well: a worker never blocks at opening, and no end of file comes between two workers.
        self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._prefix = prefix
        self._lines: deque[bytes] = deque(maxlen=LINES)
        self._rest = b""

    def fileno(self) -> int:
        return self._descriptor

    def forward(self) -> None:
        try:
            data = os.read(self._descriptor, 2**16)
        except BlockingIOError:
            return
        *lines, rest = (self._rest + data).split(b"\n")
        self._lines.extend(line[:LINE_BYTES] for line in lines[-LINES:])
        if self._prefix:
            _write(b"".join(self._prefix + line + b"\n" for line in lines))
            # Progress bars write long "lines" without an end.
            if len(rest) > 2**16:
                _write(self._prefix + rest + b"\n")
                self._lines.append(rest[:LINE_BYTES])
                rest = b""
        else:
            _write(data)
            if len(rest) > 2**16:  # an exception says at the beginning what it is, a progress bar at the end
                rest = rest[: LINE_BYTES // 2] + rest[-LINE_BYTES // 2 :]
        self._rest = rest

    def lines(self) -> list[str]:
        kept = [*self._lines, self._rest[-LINE_BYTES:]]
        texts = (line.decode("utf-8", "replace").replace("\r", "\n").rstrip().split("\n")[-1] for line in kept)
        return [text for text in texts if text]


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]
