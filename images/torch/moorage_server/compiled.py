"""A package of AOTInductor: a program that was compiled for one kind of processor or GPU.

Compiled code may do whatever the pod may, and nobody can look into it: it is loaded because its format was named. It
tells the number of its inputs and not what they are, so `moorage.yaml` does.
"""

import os
import platform
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from . import description
from .failures import StartupError
from .model import Model, order

_NAME = "model"  # in the package, which may have several; what aoti_compile_and_package calls it
HOW_TO_COMPILE = (
    "compile it where it is to run: torch._inductor.aoti_compile_and_package(program, package_path='model.pt2', "
    "inductor_configs={'cpp.dynamic_threads': True})"
)


def load(file: Path, described: description.Description | None, device: str) -> Model:
    """Raises StartupError, and what torch raises of a file that is damaged."""
    if described is None:
        raise StartupError(
            "FormatMismatch",
            f"a compiled program does not say what it takes: put a {description.FILE} beside {file.name} with inputs, "
            "in the order of its arguments, and outputs as lists of {name, datatype, shape}",
        )
    signature = description.signature_of(described)
    _check_target(file, device)
    # Without it, code that is given another shape than it was compiled for reads beyond the end.
    os.environ["AOTI_RUNTIME_CHECK_INPUTS"] = "1"
    loader = torch._C._aoti.AOTIModelPackageLoader(str(file), _NAME, False, 1, -1)
    takes, gives = map(pytree.treespec_loads, loader.get_call_spec())
    if takes.num_leaves != len(signature.inputs):
        message = f"{description.FILE} lists {len(signature.inputs)} inputs, the program takes {takes.num_leaves}"
        raise StartupError("FormatMismatch", message)
    places = order([spec.name for spec in signature.outputs], gives)

    batched = signature.batch is not None

    def forward(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        # Where the batch is free, torch compiles for two rows or more, and the code refuses one.
        alone = batched and len(tensors[0]) == 1
        given = loader.run([torch.cat((tensor, tensor)) for tensor in tensors] if alone else tensors)
        return [given[place][:1] if alone else given[place] for place in places]

    return Model(signature, device, forward, bytes=file.stat().st_size)


def _check_target(file: Path, device: str) -> None:
    """That it was compiled for what is here: a processor that does not know an instruction ends the server."""
    package: Any = torch._C._aoti.AOTIModelPackageLoader
    made = package.load_metadata_from_package(str(file), _NAME)
    wanted, here = [made.get("AOTI_DEVICE_KEY", ""), made.get("AOTI_MACHINE", "")], [device, platform.machine()]
    if device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        wanted.append(made.get("AOTI_COMPUTE_CAPABILITY", ""))
        here.append(str(major * 10 + minor))
    needs = made.get("AOTI_CPU_ISA", "")
    if wanted != here or not _can(needs):
        isa = torch.backends.cpu.get_cpu_capability()
        message = f"was compiled for {' '.join(wanted)} {needs}, this is {' '.join(here)} {isa}"
        raise StartupError("FormatMismatch", f"{file.name} {message}; {HOW_TO_COMPILE}")


def _can(needs: str) -> bool:
    """Whether this processor has the vector instructions, in the compiler's words: AVX512 AVX512_VNNI, say."""
    isa = torch.backends.cpu.get_cpu_capability()
    cpu: Any = torch.cpu
    has = {
        "AVX2": isa in ("AVX2", "AVX512"),
        "AVX512": isa == "AVX512",
        "AVX512_VNNI": cpu._is_vnni_supported(),
        "AMX_TILE": cpu._is_amx_tile_supported(),
    }
    return all(has.get(word, not word.startswith(("AVX", "AMX"))) for word in needs.split())
