"""torchrun in this process: starts the workers, waits for them, and tells why they failed."""

import shutil
from pathlib import Path

from moorage_store.termination import CONFIG, TRANSIENT, USAGE
from moorage_trainer import report
from moorage_trainer.ending import MESSAGE, Terminated
from moorage_trainer.failure import Ended, Failure, first_cause
from moorage_trainer.memory import oom_kills


def run(command: list[str], run_dir: Path) -> Failure | None:
    """None when every worker of every pod has succeeded. torchrun's settings are the PET_* variables."""
    if shutil.which(command[0]) is None:
        return Failure("InvalidConfiguration", f"the image has no program {command[0]!r} (script.command)", USAGE)
    try:
        from torch.distributed import run as torchrun
        from torch.distributed.elastic.multiprocessing import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.elastic.rendezvous.api import RendezvousError
        from torch.distributed.launcher.api import elastic_launch

        from moorage_trainer.output import Output
    except ImportError as error:
        return Failure("InvalidConfiguration", f"the image needs Python with torch 2.3 or later: {error}", USAGE)

    options = torchrun.parse_args(["--no-python", *command])  # type: ignore[no-untyped-call]
    config, program, arguments = torchrun.config_from_args(options)
    config.logs_specs = output = Output(run_dir)
    killed_before = oom_kills()
    try:
        elastic_launch(config, program)(*arguments)
        return None
    except ChildFailedError as error:
        output.close()
        ended = [
            Ended(
                rank=rank,
                local_rank=one.local_rank,
                exit_code=one.exitcode,
                lines=output.tail(one.local_rank),
                order=one.timestamp,
                told=report.read(run_dir, f"failure-{rank}.json"),
            )
            for rank, one in error.failures.items()
        ]
        world = config.max_nodes * config.nproc_per_node
        return first_cause(ended, world=world, out_of_memory=oom_kills() > killed_before)
    except (Terminated, SignalException):
        return Failure("Terminated", MESSAGE, TRANSIENT)
    except RendezvousError as error:
        if "EADDRINUSE" in str(error.__cause__):
            port = config.rdzv_endpoint.rpartition(":")[2]
            message = f"cannot listen on port {port}, where the workers meet: something else in the pod does"
            return Failure("PortInUse", message, CONFIG)
        return Failure("PeerLost", f"the workers lost each other: {error}", TRANSIENT)
    finally:
        output.close()
