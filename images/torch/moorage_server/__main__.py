"""`python -m moorage_server`: settings from the environment, exit code and termination message by the contract."""

import os
import sys
import traceback
from typing import Any

import structlog
import uvloop

from moorage_store import termination

from . import lifecycle, logs
from .failures import StartupError
from .settings import Settings


def main() -> int:
    logs.configure("info")
    log: Any = structlog.get_logger()
    try:
        settings = Settings.from_env(os.environ)
        logs.configure(settings.log_level)
        log = structlog.get_logger()
        return uvloop.run(lifecycle.run(settings))
    except StartupError as error:
        failure = error
        log.debug("trace", exc_info=error)
    except Exception as error:  # ours to mend; the user still reads what it was
        failure = StartupError("InternalError", termination.one_line(error))
        traceback.print_exc()
    termination.write(failure.reason, failure.message)
    log.error("cannot serve", reason=failure.reason, message=failure.message)
    return failure.exit_code


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # Not sys.exit: that waits for the model's thread, which may be loading or running something long.
    os._exit(code)
