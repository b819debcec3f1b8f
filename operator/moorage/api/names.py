"""Names, label keys and ports that users, children and status share. Written down for people in docs/contracts.md."""

GROUP = "moorage.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

MODEL_LABEL = f"{GROUP}/model-deployment"
TRAINING_LABEL = f"{GROUP}/training-job"
DIGEST = f"{GROUP}/digest"
TEMPLATE_DIGEST = f"{GROUP}/template-digest"
FIXED_DIGEST = f"{GROUP}/fixed-digest"

SERVER = "server"
TRAINER = "trainer"

HTTP_PORT = 8080
GRPC_PORT = 8081
METRICS_PORT = 8082
RENDEZVOUS_PORT = 29400
STATUS_PORT = 8080

# Names of children derive from the resource's; "-triton" and "-train" must still fit a DNS label of 63, and a pod of
# an Indexed Job adds its index and a random suffix of six.
MAX_NAME = 52


def train_name(name: str) -> str:
    """The Job and the headless Service of a TrainingJob. The same for ever, so that a restarted operator adopts
    them."""
    return f"{name}-train"


def triton_name(name: str) -> str:
    """The ConfigMap with Triton's configuration."""
    return f"{name}-triton"


def service_url(name: str, namespace: str, *, tls: bool = False) -> str:
    """Where a ModelDeployment answers inside the cluster. Without the cluster's domain, which we cannot know."""
    return f"http{'s' * tls}://{name}.{namespace}.svc:{HTTP_PORT}"
