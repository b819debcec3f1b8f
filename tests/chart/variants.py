"""Sets of values that, together, reach every branch of the templates."""

from chart.rendered import Manifest

VARIANTS: dict[str, Manifest] = {
    "default": {},
    "one replica": {"replicas": 1},
    "own images": {
        "image": "registry.example/moorage/operator@sha256:" + "0" * 64,
        "imagePullPolicy": "Always",
        "imagePullSecrets": ["pull"],
        "runtimes": {
            "torch": {"image": "registry.example/torch:1"},
            "triton": {"image": "registry.example/triton:1"},
            "imagePullPolicy": "Always",
            "imagePullSecrets": ["pull", "other"],
            "gpuResource": "amd.com/gpu",
            "gpuTolerations": [{"key": "gpu", "operator": "Exists"}],
        },
    },
    "some namespaces": {"watchNamespaces": ["team-a", "team-b"]},
    "no CRDs": {"crds": {"enabled": False}},
    "CRDs that go": {"crds": {"keep": False}},
    "monitored": {
        "metrics": {
            "serviceMonitor": {"enabled": True, "interval": "15s", "labels": {"release": "prometheus"}},
            "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
        },
        "prometheus": {"url": "https://prometheus.example:9090/base", "timeoutSeconds": 2.5},
        "podMonitors": {"mode": "Enabled", "labels": {"release": "prometheus"}},
    },
    "without extras": {
        "metrics": {"scrapeAnnotations": False},
        "podMonitors": {"mode": "Disabled"},
        "userRoles": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
        "resources": {},
    },
    "closed network": {
        "networkPolicy": {
            "enabled": True,
            "metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
            "egress": [{"ports": [{"port": 443, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}],
        }
    },
    "open network policy": {"networkPolicy": {"enabled": True}},
    "placed": {
        "priorityClassName": "system-cluster-critical",
        "nodeSelector": {"node-role.kubernetes.io/control-plane": ""},
        "tolerations": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"}
        ],
        "podAnnotations": {"example.com/a": "b"},
        "podLabels": {"team": "ml"},
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
    },
    "own service account": {"serviceAccount": {"create": False, "name": "robot"}},
    "annotated service account": {"serviceAccount": {"annotations": {"example.com/role": "moorage"}}},
    "long name": {"fullnameOverride": "a" * 60},
    "calm": {
        "lease": {"name": "other", "durationSeconds": 60, "renewDeadlineSeconds": 40, "retrySeconds": 5},
        "reconcile": {"workers": 4, "resyncSeconds": 3600},
        "logging": {"level": "debug", "format": "text"},
    },
}
