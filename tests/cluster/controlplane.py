"""The command lines of etcd and of the control plane's programs, the same for both tiers, and their readiness.

It knows nothing of namespaces, nodes and processes: it says what to run, the drivers run it.
"""

import http.client
import ssl
from dataclasses import dataclass
from pathlib import Path

from cluster.binaries import Binaries
from cluster.commands import until
from cluster.pki import Pki

CONFIG = Path(__file__).parent / "config"
SERVICES = "10.96.0.0/16"
FIRST_SERVICE_ADDRESS = "10.96.0.1"
READY_SECONDS = 180  # 3 on a quiet machine


@dataclass(frozen=True)
class ControlPlane:
    state: Path
    binaries: Binaries
    pki: Pki
    bind: str  # where the API server listens
    advertise: str  # the address that pods reach it at
    port: int
    etcd_port: int
    etcd_peer_port: int
    # In the API tier nobody but the host uses the API server: no address of it is published inside.
    publish_address: bool = True
    # After how long without a sign of life a node is dead and its pods not ready. Not the usual 50: tests wait for it.
    node_grace_seconds: int = 12

    def argv(self, program: str, *flags: str) -> list[str]:
        return [str(self.binaries.path("kube")), program, *flags]

    def server(self) -> dict[str, list[str]]:
        return {"etcd": self.etcd(), "kube-apiserver": self.apiserver()}

    def controllers(self) -> dict[str, list[str]]:
        """To be started when the API server is ready: they wait for it 10 s and then end."""
        return {"kube-controller-manager": self.controller_manager(), "kube-scheduler": self.scheduler()}

    def etcd(self) -> list[str]:
        client, peer = (f"http://127.0.0.1:{port}" for port in (self.etcd_port, self.etcd_peer_port))
        return self.argv(
            "etcd",
            f"--data-dir={self.state / 'etcd'}",
            # The data are thrown away with the cluster; a third of the time to come up goes into syncing them.
            "--unsafe-no-fsync",
            "--log-level=warn",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        )

    def apiserver(self) -> list[str]:
        pki = self.pki.path
        return self.argv(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            f"--bind-address={self.bind}",
            f"--advertise-address={self.advertise}",
            f"--secure-port={self.port}",
            f"--endpoint-reconciler-type={'lease' if self.publish_address else 'none'}",
            f"--service-cluster-ip-range={SERVICES}",
            f"--tls-cert-file={pki('apiserver.crt')}",
            f"--tls-private-key-file={pki('apiserver.key')}",
            f"--client-ca-file={pki('ca.crt')}",
            f"--token-auth-file={pki('tokens.csv')}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={pki('service-accounts.pub')}",
            f"--service-account-signing-key-file={pki('service-accounts.key')}",
            f"--kubelet-client-certificate={pki('kubelet-client.crt')}",
            f"--kubelet-client-key={pki('kubelet-client.key')}",
            "--kubelet-preferred-address-types=InternalIP",
            # The aggregation layer, for whoever wants to add an API. It also lets webhooks in pods be dialled directly,
            # without a kube-proxy beside the API server.
            f"--requestheader-client-ca-file={pki('ca.crt')}",
            "--requestheader-allowed-names=front-proxy",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={pki('front-proxy.crt')}",
            f"--proxy-client-key-file={pki('front-proxy.key')}",
            "--enable-aggregator-routing=true",
            f"--audit-policy-file={CONFIG / 'audit-policy.yaml'}",
            f"--audit-log-path={self.state / 'log' / 'audit.log'}",
            "--audit-log-maxsize=100",
            "--audit-log-maxbackup=2",
        )

    def controller_manager(self) -> list[str]:
        pki = self.pki.path
        return self.argv(
            "kube-controller-manager",
            f"--kubeconfig={self.state / 'kube-controller-manager.kubeconfig'}",
            f"--service-account-private-key-file={pki('service-accounts.key')}",
            f"--root-ca-file={pki('ca.crt')}",
            f"--cluster-signing-cert-file={pki('ca.crt')}",
            f"--cluster-signing-key-file={pki('ca.key')}",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            "--secure-port=0",
            # The default of 20 makes its start 5 s slower.
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
            "--node-monitor-period=1s",
            f"--node-monitor-grace-period={self.node_grace_seconds}s",
        )

    def scheduler(self) -> list[str]:
        return self.argv(
            "kube-scheduler",
            f"--kubeconfig={self.state / 'kube-scheduler.kubeconfig'}",
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
        )

    def write_kubeconfigs(self, users: list[str]) -> None:
        """For programs beside the API server or on the nodes."""
        for user in users:
            server = f"https://{self.advertise if self.publish_address else self.bind}:{self.port}"
            self.pki.write_kubeconfig(self.state / f"{user}.kubeconfig", user, server)


def wait_ready(pki: Pki, port: int, timeout: float = READY_SECONDS) -> None:
    until("the API server is ready", lambda: ready(pki, port), timeout)


def ready(pki: Pki, port: int) -> bool:
    trust = ssl.create_default_context(cafile=str(pki.path("ca.crt")))
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=trust, timeout=2)
    try:
        connection.request("GET", "/readyz", headers={"Authorization": f"Bearer {pki.token('admin')}"})
        return connection.getresponse().status == 200
    except http.client.HTTPException:
        return False
    finally:
        connection.close()
