"""The Deployment's environment and the operator's settings say the same, in both directions."""

import pytest

from chart.rendered import Render
from chart.variants import VARIANTS
from moorage.settings import Settings

# Fixed by what the operator is in a pod: nobody would set them.
NOT_VALUES = {"bind_address", "user_agent"}


def settings(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> Settings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Settings()


def test_every_setting_is_set_and_every_variable_is_a_setting(render: Render) -> None:
    names = {name.removeprefix("MOORAGE_").lower() for name in render().environment}
    assert names == Settings.model_fields.keys() - NOT_VALUES


def test_defaults_are_the_same(render: Render, monkeypatch: pytest.MonkeyPatch) -> None:
    chart = settings(monkeypatch, render().environment).model_dump(exclude={"lease_namespace"})
    for name in render().environment:
        monkeypatch.delenv(name)
    assert chart == Settings().model_dump(exclude={"lease_namespace"})


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_operator_accepts_what_the_chart_gives(
    render: Render, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    rendered = render(VARIANTS[variant])
    environment = {k: v for k, v in rendered.environment.items() if k.startswith("MOORAGE_")}
    settings(monkeypatch, environment)


def test_values_arrive(render: Render, monkeypatch: pytest.MonkeyPatch) -> None:
    own = settings(monkeypatch, render(VARIANTS["own images"]).environment)
    assert (own.torch_image, own.triton_image) == ("registry.example/torch:1", "registry.example/triton:1")
    assert own.gpu_tolerations == ({"key": "gpu", "operator": "Exists"},)
    assert own.image_pull_secrets == ("pull", "other")
    calm = settings(monkeypatch, render(VARIANTS["calm"]).environment)
    assert (calm.lease_duration_seconds, calm.workers, calm.log_level) == (60, 4, "debug")
    assert calm.resync_seconds == 3600
    monitored = settings(monkeypatch, render(VARIANTS["monitored"]).environment)
    assert monitored.prometheus_url == "https://prometheus.example:9090/base"
    assert monitored.pod_monitor_labels == {"release": "prometheus"}
    assert monitored.prometheus_timeout_seconds == 2.5
    assert settings(monkeypatch, render(VARIANTS["some namespaces"]).environment).namespaces == ("team-a", "team-b")
