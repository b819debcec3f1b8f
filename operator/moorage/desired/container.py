"""Any server that speaks HTTP, in an image of the user's. It finds its model, if it has one, in MOORAGE_MODEL_PATH."""

from moorage.api.facts import ResolvedModel
from moorage.api.modeldeployment import ModelDeployment
from moorage.api.runtimes import Container
from moorage.desired import pods, runtime
from moorage.desired.defaults import Defaults
from moorage.desired.model import place


def parts(md: ModelDeployment, wanted: Container, model: ResolvedModel, defaults: Defaults) -> runtime.Parts:
    placed = place(md, model, defaults, verify=True)
    about = pods.env(MOORAGE_MODEL_NAME=md.metadata.name)
    if placed.path is not None:
        about += pods.env(
            MOORAGE_MODEL_PATH=placed.path,
            MOORAGE_MODEL_VERSION=model.version,
            MOORAGE_MODEL_FORMAT=model.format,
        )
    connect = {"tcpSocket": {"port": "http"}}
    ready = runtime.get(wanted.readiness_path) if wanted.readiness_path else connect
    container, volumes = runtime.container(
        md,
        wanted.image,
        defaults,
        mounts=placed.mounts,
        ours=False,
        command=wanted.command,
        args=wanted.args,
        ports=runtime.ports(http=wanted.port, metrics=False),
        env=[*about, *pods.user_env(wanted.env)],
        # Alive is what accepts connections: a path that is not ready may be busy, and must not be killed for it.
        **runtime.probes(ready, connect),
    )
    return runtime.Parts(container, [*placed.volumes, *volumes], placed.init, scraped=False)
