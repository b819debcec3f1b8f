"""One node of the native driver: namespaces, a cgroup, a disk (a folder), and the faults it can suffer."""

import contextlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from string import Template
from typing import Any

from cluster import cgroups, network
from cluster.binaries import Binaries
from cluster.commands import until
from cluster.controlplane import CONFIG
from cluster.interface import ClusterError
from cluster.names import Names
from cluster.node_init import ENDED
from cluster.processes import Process, Programs, arguments, children, end, last_words, look

INIT = Path(__file__).with_name("node_init.py")
CLUSTER_DNS = "10.96.0.10"
# Everything the node's programs write is below its folder; see node_init.py for what lies where inside.
INSIDE_CONFIG = Path("/run/node")
# One may lose a race at the start and come again; one that ends this often will never run.
MOST_ENDINGS = 6


class NativeNode:
    def __init__(self, names: Names, i: int) -> None:
        self.name = names.node(i)
        self._names = names
        self._i = i
        self._programs = Programs(names.state)
        self._endings_before: dict[str, int] = {}

    @property
    def folder(self) -> Path:
        return self._names.node_folder(self._i)

    @property
    def netns_file(self) -> Path:
        return network.netns_file(self._names.node_netns(self._i))

    @property
    def runs(self) -> bool:
        return self._programs.get(self.name) is not None

    def create(self, binaries: Binaries, pause_image: str) -> None:
        """What a node has before it is switched on. `pause_image` is what each pod's sandbox runs."""
        network.create_node(self._names, self._i)
        etc = self.folder / "etc"
        (etc / "certs.d" / "_default").mkdir(parents=True, exist_ok=True)
        (etc / "cni").mkdir(exist_ok=True)
        containerd = Template((CONFIG / "containerd.toml").read_text())
        (etc / "containerd.toml").write_text(containerd.substitute(pause_image=pause_image))
        shutil.copy(CONFIG / "hosts.toml", etc / "certs.d" / "_default" / "hosts.toml")
        (etc / "resolv.conf").write_text("search cluster.local\nnameserver 127.0.0.53\n")  # for CoreDNS: nobody answers
        (etc / "cni" / "10-pods.conflist").write_text(json.dumps(cni(self._i)))
        state = self._names.state
        kubelet = kubelet_configuration(self._i, self._names.cgroup(self._i), state / "pki" / "ca.crt")
        (etc / "kubelet.json").write_text(json.dumps(kubelet, indent=1))
        spec = {"hostname": self.name, "folder": str(self.folder), "programs": self._programs_inside(binaries)}
        (self.folder / "init.json").write_text(json.dumps(spec, indent=1))

    def _programs_inside(self, binaries: Binaries) -> list[dict[str, Any]]:
        kube, state = str(binaries.path("kube")), self._names.state
        return [
            {"name": "containerd", "argv": ["containerd", "--config", str(INSIDE_CONFIG / "containerd.toml")]},
            {
                "name": "kubelet",
                "argv": [
                    kube,
                    "kubelet",
                    f"--config={INSIDE_CONFIG / 'kubelet.json'}",
                    f"--kubeconfig={state / self.name}.kubeconfig",
                    f"--hostname-override={self.name}",
                    f"--node-ip={network.node_address(self._i)}",
                    "--node-labels=type=real",
                    "--v=1",
                ],
            },
            {
                "name": "kube-proxy",
                "argv": [
                    kube,
                    "kube-proxy",
                    f"--kubeconfig={state / 'kube-proxy.kubeconfig'}",
                    f"--hostname-override={self.name}",
                    "--proxy-mode=nftables",
                    f"--cluster-cidr={network.ALL_PODS}",
                    "--nodeport-addresses=primary",
                    "--healthz-bind-address=127.0.0.1:10256",
                    "--metrics-bind-address=127.0.0.1:10249",
                    # Leave the machine's connection tracking and our OOM score as they are.
                    "--conntrack-max-per-core=0",
                    "--conntrack-min=0",
                    "--conntrack-tcp-timeout-established=0",
                    "--conntrack-tcp-timeout-close-wait=0",
                    "--oom-score-adj=0",
                ],
            },
        ]

    def boot(self) -> None:
        if self.runs:
            self._endings_before = self._endings()
            return
        self._endings_before = {}
        shutil.rmtree(self.folder / ENDED, ignore_errors=True)
        cgroup = self._names.cgroup(self._i)
        cgroups.create(cgroup)
        cgroups.remove_children(cgroup)
        self._programs.start(
            self.name,
            [
                *network.enter(self._names.node_netns(self._i)),
                *("unshare", "--mount", "--propagation=slave", "--uts", "--ipc", "--pid", "--fork", "--mount-proc"),
                *("--kill-child=KILL", "--", sys.executable, "-I", "-S", str(INIT), str(self.folder / "init.json")),
            ],
            env={"PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"},
        )

    def check(self) -> None:
        """Raises when a program of the node has ended again and again since `boot`."""
        for name, times in self._endings().items():
            if times - self._endings_before.get(name, 0) >= MOST_ENDINGS:
                words = last_words(self.folder / "log" / f"{name}.log")
                raise ClusterError(f"{name} of {self.name} ends again and again. Its last words:\n{words}")

    def _endings(self) -> dict[str, int]:
        return {file.name: int(file.read_text() or 0) for file in (self.folder / ENDED).glob("*")}

    def pull_plug(self) -> None:
        unshare = self._programs.get(self.name)
        if unshare:
            init = self._init()
            if init:
                # Process 1 has ended when every process of its namespace has.
                end(init)
            self._programs.stop(self.name)
        cgroups.remove_children(self._names.cgroup(self._i))

    def cut(self) -> None:
        network.cut_node(self._names, self._i)

    def join(self) -> None:
        network.join_node(self._names, self._i)

    def freeze(self) -> None:
        self._signal_kubelet(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_kubelet(signal.SIGCONT)

    def restart_kubelet(self) -> None:
        kubelet = self._kubelet()
        if kubelet:
            end(kubelet)
        until(f"{self.name} has a kubelet again", lambda: self._kubelet() is not None, timeout=10)

    def _init(self) -> Process | None:
        unshare = self._programs.get(self.name)
        inits = children(unshare.pid) if unshare else []
        return look(inits[0]) if inits else None

    def _kubelet(self) -> Process | None:
        init = self._init()
        for pid in children(init.pid) if init else []:
            if "kubelet" in arguments(pid)[1:2]:
                return look(pid)
        return None

    def _signal_kubelet(self, sig: signal.Signals) -> None:
        kubelet = self._kubelet()
        if kubelet:
            with contextlib.suppress(ProcessLookupError):
                os.kill(kubelet.pid, sig)


def cni(i: int) -> dict[str, Any]:
    """Pods are routed point to point: no bridge, so neither br_netfilter nor hairpins."""
    addresses = {
        "type": "host-local",
        "dataDir": "/run/cni-ipam",  # forgotten at a reboot, like the pods that had them
        "ranges": [[{"subnet": network.pod_network(i)}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    ptp = {"type": "ptp", "mtu": 1500, "ipMasq": False, "ipam": addresses}
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [ptp]}


def kubelet_configuration(i: int, cgroup: str, authority: Path) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": network.node_address(i),
        "healthzBindAddress": "127.0.0.1",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True, "cacheTTL": "10s"},
            "x509": {"clientCAFile": str(authority)},
        },
        "authorization": {"mode": "Webhook"},
        "clusterDNS": [CLUSTER_DNS],
        "clusterDomain": "cluster.local",
        "resolvConf": str(INSIDE_CONFIG / "resolv.conf"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,  # lowering it needs CAP_SYS_RESOURCE
        "enforceNodeAllocatable": ["pods"],
        "maxPods": 110,
        "serializeImagePulls": False,
        # The machine's disk and memory are shared by all nodes: neither collect images nor evict because of others.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {"memory.available": "200Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        # A dead node is found by its Lease; see ControlPlane.node_grace_seconds.
        "nodeStatusUpdateFrequency": "2s",
        "nodeStatusReportFrequency": "20s",
        "nodeLeaseDurationSeconds": 8,
        "syncFrequency": "10s",
        "volumeStatsAggPeriod": "10s",
        "shutdownGracePeriod": "0s",
    }
