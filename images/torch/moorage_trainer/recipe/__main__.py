"""One worker of the recipe, started by torchrun. What goes wrong with recipe or data is told without a stack trace."""

import os
import sys
from pathlib import Path

import torch

from moorage_store.termination import DATA, NO_INPUT, USAGE
from moorage_trainer import report
from moorage_trainer.recipe import dataset, export
from moorage_trainer.recipe.config import BadRecipe, parse
from moorage_trainer.recipe.files import BadData, NoData
from moorage_trainer.recipe.train import NonFiniteLoss, Training, join


def main() -> int:
    try:
        _train()
    except BadRecipe as error:
        return _failed("InvalidConfiguration", str(error), USAGE)
    except NoData as error:
        return _failed("DataNotFound", str(error), NO_INPUT)
    except BadData as error:
        return _failed("DataInvalid", str(error), DATA)
    except NonFiniteLoss as error:
        return _failed("NonFiniteLoss", str(error), 1, error.step)
    return 0


def _train() -> None:
    recipe = parse(os.environ.get("MOORAGE_RECIPE", "{}"))
    data = os.environ.get("MOORAGE_DATA_DIR")
    if not data:
        raise NoData("a recipe needs data: set spec.data.uri")
    # Before the workers meet: unfit data is then the same clear word from all, and no lost peers.
    table = dataset.load(Path(data), recipe)
    worker = join()
    if worker.rank == 0:
        classes = f", {len(table.classes)} classes" if table.classes is not None else ""
        place = f"{worker.world} workers on {worker.device.type}"
        print(f"{len(table.x)} samples of {table.x.shape[1]} features{classes}; {place}", flush=True)
    result = Training(recipe, table, worker).run()
    if worker.rank == 0:
        report.write(report.RESULT, {"metrics": result.metrics})
        if folder := os.environ.get("MOORAGE_OUTPUT_DIR"):
            form = os.environ.get("MOORAGE_OUTPUT_FORMAT") or "TorchExport"
            examples = torch.from_numpy(table.x[:16])
            export.save(result.model, examples, Path(folder), form=form, classes=table.classes, metrics=result.metrics)


def _failed(reason: str, message: str, code: int, step: int | None = None) -> int:
    report.write_failure(reason, message, step)
    print(f"{reason}: {message}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    ended = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: while a loaded machine takes the process group apart, its threads may outlive what they stand on,
    # and a training that was done ends with SIGABRT ("terminate called without an active exception"; seen).
    os._exit(ended)
