"""The add-ons' manifests are right for Kubernetes, and volumes that a test has left are offered again, empty."""

import json
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from cluster import addons
from cluster.interface import Cluster

IMAGES = {key: f"registry/{key}:1" for key in addons.WORKLOADS}
KUBERNETES = "1.34"


class Kubectl:
    """Answers from a list of (words in the command, output) and remembers what was asked."""

    def __init__(self, *answers: tuple[str, str]) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self.applied: list[dict[str, Any]] = []

    def kubectl(self, *args: str, input: str | None = None, timeout: float = 60) -> str:
        command = " ".join(args)
        self.asked.append(command)
        if input:
            self.applied = json.loads(input)["items"]
        return next((output for words, output in self.answers if words in command), "")


def cluster(*answers: tuple[str, str]) -> Any:
    return Kubectl(("get pvc s3", "shared-07"), *answers, ("get persistentvolumes", '{"items": []}'))


def of_kind(manifests: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def test_every_manifest_is_valid_kubernetes(tmp_path: Path) -> None:
    for manifest in [*addons.manifests(IMAGES), *addons.volumes(tmp_path)]:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_every_container_runs_the_image_given_for_it() -> None:
    found = [
        container["image"]
        for manifest in addons.manifests(IMAGES)
        for container in manifest.get("spec", {}).get("template", {}).get("spec", {}).get("containers", [])
    ]
    assert sorted(found) == sorted(IMAGES.values())


def test_what_has_no_image_is_left_out_as_dns_is_on_kind() -> None:
    without_dns = {key: name for key, name in IMAGES.items() if key != "coredns"}
    names = [manifest["metadata"]["name"] for manifest in addons.manifests(without_dns)]
    assert "coredns" not in names and "kube-dns" not in names
    assert {"shared", "fakegpu", "prometheus", "s3"} <= set(names)


def test_our_storage_class_is_the_default_and_binds_at_once() -> None:
    (made,) = of_kind(list(addons.manifests(IMAGES)), "StorageClass")
    assert made["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true"
    assert made["volumeBindingMode"] == "Immediate"


def test_workloads_leave_the_small_machine_its_cpu() -> None:
    for manifest in addons.manifests(IMAGES):
        for container in manifest.get("spec", {}).get("template", {}).get("spec", {}).get("containers", []):
            requests, limits = container["resources"]["requests"], container["resources"]["limits"]
            assert int(requests["cpu"].removesuffix("m")) <= 50
            assert "memory" in limits and "cpu" not in limits


@pytest.mark.parametrize("name", ["prometheus", "s3"])
def test_servers_run_without_privileges(name: str) -> None:
    (made,) = (d for d in of_kind(list(addons.manifests(IMAGES)), "Deployment") if d["metadata"]["name"] == name)
    pod = made["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    for container in pod["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_prometheus_keeps_pod_labels_and_scrapes_by_annotation() -> None:
    (made,) = (
        c for c in of_kind(list(addons.manifests(IMAGES)), "ConfigMap") if c["metadata"]["namespace"] == "monitoring"
    )
    config = yaml.safe_load(made["data"]["prometheus.yml"])
    assert config["global"]["scrape_interval"] == "2s"
    rules = config["scrape_configs"][0]["relabel_configs"]
    assert {"regex": "__meta_kubernetes_pod_label_(.+)", "action": "labelmap"} in rules
    targets = {rule.get("target_label") for rule in rules}
    assert {"namespace", "pod", "__address__", "__metrics_path__"} <= targets


def test_every_volume_can_be_written_by_any_user_on_any_node(tmp_path: Path) -> None:
    addons.make_folders(tmp_path)
    made = list(addons.volumes(tmp_path))
    assert len(made) == addons.VOLUMES
    for volume in made:
        folder = Path(volume["spec"]["hostPath"]["path"])
        assert folder.stat().st_mode & 0o777 == 0o777
        assert "nodeAffinity" not in volume["spec"]
        assert {"ReadWriteMany", "ReadWriteOnce"} <= set(volume["spec"]["accessModes"])


def test_apply_makes_the_bucket_and_waits_for_each_workload(tmp_path: Path) -> None:
    fake = cluster()
    addons.apply(fake, IMAGES, tmp_path)
    assert (tmp_path / "shared-07" / addons.BUCKET).stat().st_mode & 0o777 == 0o777
    waited = [command for command in fake.asked if command.startswith("rollout status")]
    assert [command.split()[2] for command in waited] == [workload for _, workload in addons.WORKLOADS.values()]
    assert len(of_kind(fake.applied, "PersistentVolume")) == addons.VOLUMES


def test_a_released_volume_is_emptied_and_offered_again_and_no_other_is_touched(tmp_path: Path) -> None:
    addons.make_folders(tmp_path)
    for name in ("shared-00", "shared-01"):
        (tmp_path / name / "run" / "deep").mkdir(parents=True)
        (tmp_path / name / "file").write_text("left")
        (tmp_path / name / "link").symlink_to(tmp_path)
    items = [
        {"metadata": {"name": name}, "status": {"phase": phase}}
        for name, phase in (("shared-00", "Bound"), ("shared-01", "Released"), ("shared-02", "Available"))
    ]
    fake: Any = Kubectl(("get persistentvolumes", json.dumps({"items": items})))
    opened: Cluster = fake
    assert addons.recycle(opened, tmp_path) == ["shared-01"]
    assert list((tmp_path / "shared-01").iterdir()) == []
    assert len(list((tmp_path / "shared-00").iterdir())) == 3
    patches = [command for command in fake.asked if command.startswith("patch")]
    assert patches == ['patch persistentvolume shared-01 --type=merge -p {"spec": {"claimRef": null}}']
