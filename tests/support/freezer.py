"""A TCP proxy whose connections can be frozen: open, and silent for ever. What a lost network path does to a watch."""

import contextlib
import json
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

import yaml


class Freezer:
    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._frozen: set[socket.socket] = set()
        self._open: set[socket.socket] = set()
        self._closed = False

    def __enter__(self) -> "Freezer":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def kubeconfig(self, original: Path, folder: Path) -> Path:
        """The same rights, by way of this proxy."""
        config = yaml.safe_load(original.read_text())
        for cluster in config["clusters"]:
            cluster["cluster"]["server"] = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        path = folder / "frozen.kubeconfig"
        path.write_text(json.dumps(config))
        return path

    def freeze(self) -> None:
        """All connections that are open now. New ones are let through."""
        self._frozen |= self._open

    def _accept(self) -> None:
        while not self._closed:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target, timeout=5)
            except OSError:
                return
            far.settimeout(None)
            self._open |= {near, far}
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if source not in self._frozen:
                    sink.sendall(data)
        if source not in self._frozen:
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)


def api_server(kubeconfig: Path) -> tuple[str, int]:
    address = urlsplit(yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]["server"])
    assert address.hostname is not None
    assert address.port is not None
    return address.hostname, address.port
