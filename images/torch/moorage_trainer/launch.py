"""`python -m moorage_trainer.launch [-- COMMAND…]`: one worker of a TrainingJob, from its data to its last words.

Data, a place for the result, torchrun with the command (or the built-in recipe), and on the first worker the result's
publication. However it ends, the exit code and the termination message say why.
"""

import math
import os
import socket
import sys
import tempfile
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from moorage_store import errors, termination
from moorage_store.digest import sha256_of, size_of
from moorage_store.publish import Output
from moorage_trainer import agent, data, ending, rendezvous, report, status
from moorage_trainer.failure import Failure
from moorage_trainer.settings import BadEnvironment, Settings

OLDEST = (3, 11)

# What the store calls a model is the data here.
_DATA_REASONS = {
    "ModelNotFound": "DataNotFound",
    "ModelCorrupt": "DataInvalid",
    "UnsafeModel": "DataInvalid",
    "DigestMismatch": "DataInvalid",
}


def main(arguments: list[str]) -> None:
    ending.on_sigterm()
    try:
        if sys.version_info < OLDEST:  # of an image of the user's
            there = ".".join(map(str, sys.version_info[:3]))
            raise BadEnvironment(f"the image needs Python {OLDEST[0]}.{OLDEST[1]} or later; it has {there}")
        settings = Settings.from_environment()
        command = _command(arguments, settings)
        _work(settings, command)
    except BadEnvironment as error:
        _end(Failure("InvalidConfiguration", str(error), termination.USAGE))
    except errors.StoreError as error:
        _end(Failure(_DATA_REASONS.get(error.reason, error.reason), str(error), error.code))
    except rendezvous.PeerMissing as error:
        _end(Failure("PeerLost", str(error), termination.TRANSIENT))
    except ending.Terminated:
        _end(Failure("Terminated", ending.MESSAGE, termination.TRANSIENT))
    except Exception as error:  # a full disk, say, or a mistake of ours: never without a word
        traceback.print_exc()
        _end(Failure("InternalError", f"the launcher failed: {termination.one_line(error)}", 1))


def _work(settings: Settings, command: list[str]) -> None:
    run_dir = Path(tempfile.mkdtemp(prefix="moorage-run-"))
    os.environ["MOORAGE_RUN_DIR"] = str(run_dir)
    if settings.is_first:
        try:
            status.serve(run_dir, settings.status_port)
        except OSError as error:
            _say(f"progress cannot be served on port {settings.status_port} ({error}); training goes on without")
    output = Output(settings.output_uri, settings.output_mount, settings.job) if settings.output_uri else None
    # Before the hours of training, not after them. Only the first worker's folder is published.
    ours = output.prepare() if output and settings.is_first else Path(tempfile.mkdtemp(dir=run_dir))
    os.environ["MOORAGE_OUTPUT_DIR"] = str(ours)
    try:
        if path := data.prepare(settings, run_dir):
            os.environ["MOORAGE_DATA_DIR"] = str(path)
        os.environ.update(rendezvous.environment(settings))
        if not settings.is_first:
            rendezvous.wait_for_first(settings, _say)
        _say(f"worker {settings.index} of {settings.nodes} starts: {' '.join(command)}")
        if failure := agent.run(command, run_dir):
            if settings.recipe and failure.reason == "ScriptFailed" and failure.signal is None:
                failure = replace(
                    failure, reason="InternalError"
                )  # the recipe is ours, and so is what it did not foresee
            _end(failure, report.read(run_dir, report.PROGRESS))
        ending.finish_first()
        if settings.is_first:
            _succeed(settings, output, run_dir)
    finally:
        if output and settings.is_first:
            output.discard()


def _succeed(settings: Settings, output: Output | None, run_dir: Path) -> None:
    told = report.read(run_dir, report.RESULT).get("metrics")
    metrics = {name: value for name, value in told.items() if _is_number(value)} if isinstance(told, dict) else {}
    last_words: dict[str, Any] = {"metrics": metrics}
    if output:
        _say(f"publishing to {settings.output_uri}")
        last_words["output"] = {
            "uri": settings.output_uri,
            "sha256": sha256_of(output.folder),
            "sizeBytes": size_of(output.folder),
        }
        output.publish()
    ending.succeeded(**last_words)
    _say(f"succeeded: {last_words}")


def _command(arguments: list[str], settings: Settings) -> list[str]:
    if arguments and arguments[0] == "--":
        arguments = arguments[1:]
    if arguments:
        return arguments
    if not settings.recipe:
        raise BadEnvironment("there is nothing to run: give a command after --, or MOORAGE_RECIPE")
    from moorage_trainer.recipe.config import BadRecipe, parse

    try:
        parse(settings.recipe)
    except BadRecipe as error:
        raise BadEnvironment(str(error)) from error
    return [sys.executable, "-m", "moorage_trainer.recipe"]


def _end(failure: Failure, progress: dict[str, Any] | None = None) -> NoReturn:
    extras: dict[str, Any] = {"host": socket.gethostname(), **failure.extras()}
    step = (progress or {}).get("step")
    if isinstance(step, int):
        extras.setdefault("step", step)
    termination.fail(failure.code, failure.reason, failure.message, **extras)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _say(words: str) -> None:
    print(f"moorage: {words}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
