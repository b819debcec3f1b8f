"""Settings come from the environment, and a wrong one says what to write."""

import pytest
from pydantic import ValidationError

from moorage import app
from moorage.settings import Settings


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOORAGE_NAMESPACES", "a, b,")
    monkeypatch.setenv("MOORAGE_IMAGE_PULL_SECRETS", "")
    settings = Settings()
    assert settings.namespaces == ("a", "b")
    assert settings.image_pull_secrets == ()


def test_structures_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOORAGE_POD_MONITOR_LABELS", '{"release": "prom"}')
    monkeypatch.setenv("MOORAGE_GPU_TOLERATIONS", '[{"key": "gpu", "operator": "Exists"}]')
    defaults = Settings().defaults(pod_monitors=True)
    assert defaults.pod_monitor_labels == (("release", "prom"),)
    assert defaults.gpu_tolerations == ({"key": "gpu", "operator": "Exists"},)


def test_an_address_without_a_scheme_is_refused_with_the_right_one() -> None:
    with pytest.raises(ValidationError, match="http://prometheus:9090"):
        Settings(prometheus_url="prometheus:9090")
    assert Settings(prometheus_url="http://prometheus:9090/").prometheus_url == "http://prometheus:9090"


def test_every_setting_has_its_reason() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("MOORAGE_GPU_TOLERATIONS", "foo", "must be JSON"),
        ("MOORAGE_POD_MONITOR_LABELS", "[", "must be JSON"),
        ("MOORAGE_WORKERS", "many", "valid integer"),
        ("MOORAGE_LEASE_RETRY_SECONDS", "12", "they are 12, 10 and 15"),
        ("MOORAGE_LEASE_RENEW_DEADLINE_SECONDS", "15", "they are 2, 15 and 15"),
    ],
)
def test_a_wrong_setting_is_named_and_ends_the_process_with_78(
    name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as end:
        app.run()
    assert end.value.code == 78
    said = capsys.readouterr().err
    assert name in said
    assert words in said
