"""The command line: `run` is what the operator's image starts; `crds` and `render` work without a cluster."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import ValidationError
from pydantic_settings import SettingsError

from moorage.api.crd import crds as definitions
from moorage.api.facts import InvalidSpec, ResolvedModel
from moorage.api.modeldeployment import ModelDeployment
from moorage.api.names import API_VERSION
from moorage.api.trainingjob import TrainingJob
from moorage.desired import serving, training
from moorage.desired.defaults import Defaults
from moorage.desired.model import resolve
from moorage.settings import Settings, complaints

app = typer.Typer(help="Trains models and serves them on Kubernetes.", no_args_is_help=True, add_completion=False)

# A child's owner has a uid; a file's resource has none yet.
_NO_UID = "00000000-0000-0000-0000-000000000000"


@app.command()
def run() -> None:
    """Run the operator. Its settings are environment variables that begin with MOORAGE_."""
    # Only here: kopf and the API client take most of a second to load, and the other commands need neither.
    from moorage import app as operator

    operator.run()


@app.command()
def crds(
    output: Annotated[
        Path | None, typer.Option(help="Folder to write them to, with a Kustomization. Default: print them.")
    ] = None,
) -> None:
    """Write the CustomResourceDefinitions."""
    if output is None:
        typer.echo(dump(*definitions()), nl=False)
        return
    output.mkdir(parents=True, exist_ok=True)
    for name, text in crd_files().items():
        (output / name).write_text(text)


@app.command()
def render(
    file: Annotated[Path, typer.Argument(help="A YAML file with ModelDeployments and TrainingJobs; '-' reads stdin.")],
    torch_image: Annotated[str | None, typer.Option(help="Instead of the operator's default.")] = None,
    triton_image: Annotated[str | None, typer.Option(help="Instead of the operator's default.")] = None,
) -> None:
    """Print the children the operator would make. Needs no cluster; CEL rules are the API server's to check."""
    try:
        settings = Settings()
    except (ValidationError, SettingsError) as error:
        typer.secho("\n".join(complaints(error)), err=True, fg="red")
        raise typer.Exit(78) from None
    chosen = {key: value for key, value in (("torch_image", torch_image), ("triton_image", triton_image)) if value}
    defaults = settings.model_copy(update=chosen).defaults(pod_monitors=settings.pod_monitors == "Enabled")
    try:
        # Not the option's own exists=True: that looks for a file named '-' too.
        text = typer.get_text_stream("stdin").read() if str(file) == "-" else file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        typer.secho(f"{file} cannot be read: {error}", err=True, fg="red")
        raise typer.Exit(2) from None
    try:
        documents = [doc for doc in yaml.safe_load_all(text) if isinstance(doc, dict)]
        children = list(render_all(documents, defaults))
    except (InvalidSpec, yaml.YAMLError) as error:
        typer.secho(str(error), err=True, fg="red")
        raise typer.Exit(1) from None
    typer.echo(dump(*children), nl=False)


def render_all(documents: list[dict[str, Any]], defaults: Defaults) -> Iterator[dict[str, Any]]:
    """The children of every resource of ours among the documents; others are passed over."""
    ours = [_with_uid(doc) for doc in documents if doc.get("apiVersion") == API_VERSION]
    jobs = [_as_if_succeeded(doc) for doc in ours if doc.get("kind") == "TrainingJob"]
    for doc in ours:
        where = f"{doc.get('kind')} {doc['metadata'].get('name')}"
        try:
            if doc.get("kind") == "TrainingJob":
                yield from training.children(TrainingJob.parse(doc, strict=True), defaults)
            elif doc.get("kind") == "ModelDeployment":
                yield from _serving(ModelDeployment.parse(doc, strict=True), jobs, defaults)
            else:
                raise InvalidSpec(f"there is no kind {doc.get('kind')}: write ModelDeployment or TrainingJob")
        except InvalidSpec as error:
            raise InvalidSpec(f"{where}: {error.message}", error.reason) from None


def _serving(md: ModelDeployment, jobs: list[dict[str, Any]], defaults: Defaults) -> Iterator[dict[str, Any]]:
    model = resolve(md, jobs)
    if not isinstance(model, ResolvedModel):
        raise InvalidSpec(f"{model.message}: put that TrainingJob into the file too")
    replicas = md.spec.scaling.min_replicas if md.spec.scaling else md.replicas
    yield from serving.children(md, model, replicas, defaults)


def _as_if_succeeded(doc: dict[str, Any]) -> dict[str, Any]:
    """A TrainingJob of a file has not run: what it is to make stands for what it made."""
    output = (doc.get("spec") or {}).get("output")
    if doc.get("status") or not output:
        return doc
    condition = {"type": "Succeeded", "status": "True"}
    return {**doc, "status": {"output": {"uri": output["uri"]}, "conditions": [condition]}}


def _with_uid(doc: dict[str, Any]) -> dict[str, Any]:
    metadata = {"namespace": "default", "uid": _NO_UID, **(doc.get("metadata") or {})}
    return {**doc, "metadata": metadata}


def crd_files() -> dict[str, str]:
    """Everything under crds/, by file name. Kustomize also takes its file without an ending, and `kubectl apply -f
    crds/` passes over that one."""
    made = {f"{crd['spec']['names']['plural']}.yaml": _GENERATED + dump(crd) for crd in definitions()}
    kustomization = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": list(made)}
    # Without an ending, so that `kubectl apply -f` of the folder leaves it alone and `-k` finds it.
    return {**made, "Kustomization": _GENERATED + dump(kustomization)}


_GENERATED = "# Made by `make crds` from the pydantic models: change those.\n"


class _Dumper(yaml.SafeDumper):
    """Files inside of a ConfigMap as they are, line by line; what is there twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # kubectl reads a bare y or n as true or false; PyYAML does not, and leaves them bare.
    style = "|" if "\n" in text else "'" if text in ("y", "Y", "n", "N") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def dump(*documents: dict[str, Any]) -> str:
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
