"""`python -m moorage_store`: what the init containers of serving and training pods run.

argparse, because a container that only has Python and torch runs this too.
"""

import argparse
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import NoReturn

from moorage_store import fetch, termination, triton_repository
from moorage_store.errors import StoreError


def main(arguments: list[str]) -> None:
    options = _parser().parse_args(arguments)
    _end_on_sigterm()
    start = time.monotonic()
    try:
        if options.command == "fetch":
            copied = fetch.fetch(options.uri, options.dest, options.sha256, options.allow_existing)
            termination.write("Fetched", bytes=copied, seconds=round(time.monotonic() - start, 3))
        elif options.command == "verify":
            fetch.verify(options.path, options.sha256)
        elif options.command in ("encrypt", "decrypt"):
            from moorage_store import encryption

            change = encryption.encrypt if options.command == "encrypt" else encryption.decrypt
            change(options.source, options.dest, encryption.read_key(options.key), options.allow_existing)
        else:
            fetch.verify(options.model, options.sha256)
            if options.format:
                from moorage_store import model_check  # loads torch, which the other commands do without

                model_check.check(options.model, options.format)
            triton_repository.lay_out(options.config_dir, options.dest, options.name, options.version)
    except StoreError as error:
        termination.fail(error.code, error.reason, str(error))
    except OSError as error:
        termination.fail(1, "FetchFailed", f"{options.command}: {error}")
    except Exception as error:  # ours to mend; the user still reads what it was
        traceback.print_exc()
        termination.fail(1, "InternalError", f"{options.command}: {termination.one_line(error)}")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        termination.fail(termination.USAGE, "InvalidConfiguration", f"{self.prog}: {message}; {self.format_usage()}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m moorage_store", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    one = commands.add_parser("fetch", help="copy a URI to DEST: a file, or a folder from an archive or S3 prefix")
    one.add_argument("uri", help="s3://BUCKET/KEY or http(s)://HOST/PATH")
    one.add_argument("dest", type=Path, help="what the file or folder is to be called; its parent is made")
    one.add_argument("--sha256", default="", help="refuse any other content")
    one.add_argument("--allow-existing", action="store_true", help="a complete DEST is good (and checked)")

    one = commands.add_parser("verify", help="check the sha256 of a file or folder in place")
    one.add_argument("path", type=Path)
    one.add_argument("--sha256", default="", help="empty: only that it exists")

    for command in ("encrypt", "decrypt"):
        one = commands.add_parser(command, help=f"{command} a file, or each file of a folder, with AES-256-GCM")
        one.add_argument("source", type=Path)
        one.add_argument("dest", type=Path, help="what the file or folder is to be called; its parent is made")
        one.add_argument("--key", type=Path, required=True, help="a file of 32 bytes, as they are or in base64")
        one.add_argument("--allow-existing", action="store_true", help="a DEST that is there is replaced")

    one = commands.add_parser("triton-repository", help="lay out config.pbtxt and model.py for tritonserver")
    one.add_argument("--name", required=True, help="the model's name in the protocol")
    one.add_argument("--version", default="1", help="a whole number, Triton knows no others")
    one.add_argument("--config-dir", type=Path, required=True, help="the mounted ConfigMap of the ModelDeployment")
    one.add_argument("--dest", type=Path, default=Path("/models"), help="the model repository")
    one.add_argument("--model", type=Path, required=True, help="file or folder of the model; it must be there")
    one.add_argument("--sha256", default="", help="refuse any other content of the model")
    one.add_argument(
        "--format", choices=("TorchExport", "TorchScript"), help="refuse a model that is another, or could run code"
    )
    return parser


def _end_on_sigterm() -> None:
    """As process 1 of a container, no default handler would end us, and a read of the network can be long."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

    def wait() -> None:
        signal.sigwait([signal.SIGTERM])
        termination.write("Terminated", "ended by SIGTERM; what is fetched so far is kept for the next try")
        os._exit(termination.TRANSIENT)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1:])
