"""What the launcher adds to torchrun's environment, and how long it waits for the first worker."""

import socket
from pathlib import Path

import pytest

from moorage_trainer import rendezvous
from moorage_trainer.memory import oom_kills
from moorage_trainer.settings import BadEnvironment, Settings


def settings(index: int, endpoint: str = "digits-train-0.digits-train.default.svc:29400") -> Settings:
    return Settings.from_environment({"PET_RDZV_ENDPOINT": endpoint, "JOB_COMPLETION_INDEX": str(index)})


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PET_LOCAL_ADDR", raising=False)
    monkeypatch.setattr(socket, "gethostname", lambda: "digits-train-3")
    monkeypatch.setattr(socket, "getfqdn", lambda: "digits-train-3")


def test_the_first_worker_hosts_the_store_and_the_others_ask_it() -> None:
    first, other = rendezvous.environment(settings(0)), rendezvous.environment(settings(3))
    assert first["PET_RDZV_CONF"].startswith("is_host=1,")
    assert first["PET_RDZV_ENDPOINT"] == "localhost:29400"
    assert other["PET_RDZV_CONF"].startswith("is_host=0,")
    assert "PET_RDZV_ENDPOINT" not in other
    assert other["PET_LOCAL_ADDR"] == "digits-train-3.digits-train.default.svc"


def test_the_full_name_of_etc_hosts_is_taken_where_it_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    full = "digits-train-3.digits-train.default.svc.cluster.local"
    monkeypatch.setattr(socket, "getfqdn", lambda: full)
    assert rendezvous.environment(settings(3))["PET_LOCAL_ADDR"] == full


@pytest.mark.parametrize("endpoint", ["localhost:1", "10.1.2.3:29400"])
def test_on_one_machine_the_endpoint_is_the_name(endpoint: str) -> None:
    assert rendezvous.environment(settings(0, endpoint))["PET_LOCAL_ADDR"] == endpoint.split(":")[0]


def test_waiting_ends_when_the_first_worker_listens() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        rendezvous.wait_for_first(settings(1, f"127.0.0.1:{listening.getsockname()[1]}"), print, seconds=10)


def test_waiting_is_bounded_and_says_for_whom() -> None:
    said: list[str] = []
    with pytest.raises(rendezvous.PeerMissing, match=r"worker 0 was not reached at nowhere\.invalid:29400"):
        rendezvous.wait_for_first(settings(1, "nowhere.invalid:29400"), said.append, seconds=0)
    assert rendezvous.environment(settings(1))["PET_RDZV_CONF"].endswith("join_timeout=1800")


@pytest.mark.parametrize(
    ("name", "value"), [("JOB_COMPLETION_INDEX", "x"), ("MOORAGE_STATUS_PORT", "-1"), ("PET_RDZV_ENDPOINT", "host")]
)
def test_a_variable_that_makes_no_sense_is_named(name: str, value: str) -> None:
    with pytest.raises(BadEnvironment, match=name):
        Settings.from_environment({name: value})


def test_kernel_kills_are_read_from_either_cgroup_version(tmp_path: Path) -> None:
    events, control = tmp_path / "memory.events", tmp_path / "memory.oom_control"
    assert oom_kills((events, control)) == 0
    control.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    assert oom_kills((events, control)) == 2
    events.write_text("low 0\nhigh 0\nmax 5\noom 1\noom_kill 1\noom_group_kill 0\n")
    assert oom_kills((events, control)) == 1
