"""Settings from the environment: the contract's defaults, and words for what makes no sense."""

from pathlib import Path

import pytest

from moorage_server.failures import StartupError
from moorage_server.settings import Settings, Source

REQUIRED = {"MOORAGE_MODEL_PATH": "/models/digits", "MOORAGE_MODEL_NAME": "digits"}


def test_the_defaults_of_the_contract() -> None:
    assert Settings.from_env(REQUIRED) == Settings(
        models=(Source(Path("/models/digits"), "digits", version="1", format="TorchExport", sha256=""),),
        repository=False,
        memory_budget_bytes=0,
        device="Auto",
        max_batch_size=64,
        max_queue_delay_microseconds=0,
        max_queue_size=1024,
        max_body_bytes=67108864,
        max_total_body_bytes=268435456,
        max_connections=4096,
        header_timeout_seconds=10,
        body_timeout_seconds=60,
        idle_timeout_seconds=120,
        drain_timeout_seconds=30,
        http_port=8080,
        metrics_port=8082,
        log_level="info",
    )


def test_there_is_room_for_the_largest_body() -> None:
    settings = Settings.from_env(REQUIRED | {"MOORAGE_MAX_BODY_BYTES": str(1 << 30)})
    assert settings.max_total_body_bytes == 1 << 30


def test_an_empty_value_is_no_value() -> None:
    assert Settings.from_env(REQUIRED | {"MOORAGE_MAX_BATCH_SIZE": " ", "MOORAGE_DEVICE": ""}) == Settings.from_env(
        REQUIRED
    )


def test_a_digest_may_be_written_as_image_digests_are() -> None:
    for text in ("AB" * 32, "sha256:" + "ab" * 32):
        assert Settings.from_env(REQUIRED | {"MOORAGE_MODEL_SHA256": text}).models[0].sha256 == "ab" * 32


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("MOORAGE_MODEL_PATH", "", "MOORAGE_MODEL_PATH is not set"),
        ("MOORAGE_MODEL_NAME", "", "MOORAGE_MODEL_NAME is not set"),
        ("MOORAGE_MODEL_FORMAT", "Keras", "MOORAGE_MODEL_FORMAT is 'Keras'; it may be TorchExport, TorchScript"),
        ("MOORAGE_DEVICE", "cuda", "MOORAGE_DEVICE is 'cuda'; it may be Auto, CPU, CUDA"),
        ("MOORAGE_MAX_BATCH_SIZE", "0", "MOORAGE_MAX_BATCH_SIZE is '0'; it must be an integer from 1 to"),
        ("MOORAGE_MAX_QUEUE_SIZE", "many", "MOORAGE_MAX_QUEUE_SIZE is 'many'; it must be an integer from 1 to"),
        ("MOORAGE_MAX_QUEUE_DELAY_MICROSECONDS", "-1", "it must be an integer from 0 to"),
        ("MOORAGE_MAX_BODY_BYTES", "1e6", "it must be an integer from 1024 to"),
        ("MOORAGE_MAX_TOTAL_BODY_BYTES", "1024", "it must be an integer from 67108864 to"),
        ("MOORAGE_HEADER_TIMEOUT_SECONDS", "0", "it must be an integer from 1 to"),
        ("MOORAGE_BODY_TIMEOUT_SECONDS", "1.5", "it must be an integer from 1 to"),
        ("MOORAGE_MAX_CONNECTIONS", "0", "it must be an integer from 1 to"),
        ("MOORAGE_IDLE_TIMEOUT_SECONDS", "-1", "it must be an integer from 1 to"),
        ("MOORAGE_DRAIN_TIMEOUT_SECONDS", "30s", "it must be an integer from 0 to"),
        ("MOORAGE_HTTP_PORT", "70000", "it must be an integer from 0 to 65535"),
        ("MOORAGE_MODEL_SHA256", "abc", "MOORAGE_MODEL_SHA256 is 'abc'; it must be 64 hexadecimal digits, or empty"),
        ("MOORAGE_LOG_LEVEL", "loud", "MOORAGE_LOG_LEVEL is 'loud'; it may be debug, info, warning, error"),
    ],
)
def test_what_makes_no_sense_is_told(variable: str, value: str, words: str) -> None:
    with pytest.raises(StartupError) as refused:
        Settings.from_env(REQUIRED | {variable: value})
    assert words in refused.value.message
    assert (refused.value.reason, refused.value.exit_code) == ("InvalidConfiguration", 78)
