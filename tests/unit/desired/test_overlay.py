"""podTemplate: what it adds, replaces and removes, and what is refused in words."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage.api.facts import InvalidSpec
from moorage.desired import digest, overlay

BASE: dict[str, Any] = {
    "metadata": {"labels": {"moorage.dev/model-deployment": "a", "app.kubernetes.io/name": "x"}},
    "spec": {
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "containers": [
            {
                "name": "server",
                "image": "ours",
                "args": ["one", "two"],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
                "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
                "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1},
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    },
}


def merged(spec: dict[str, Any] | None = None, **server: Any) -> dict[str, Any]:
    over = dict(spec or {})
    if server:
        over["containers"] = [{"name": "server", **server}]
    return overlay.apply(BASE, {"spec": over})["spec"]


def server(**fields: Any) -> dict[str, Any]:
    return merged(None, **fields)["containers"][0]


def test_without_an_overlay_nothing_changes() -> None:
    assert overlay.apply(BASE, None) == overlay.apply(BASE, {}) == BASE


def test_lists_with_names_merge_by_name() -> None:
    assert [c["name"] for c in merged({"containers": [{"name": "side", "image": "x"}]})["containers"]] == [
        "server",
        "side",
    ]
    assert server(env=[{"name": "B", "value": "3"}, {"name": "C", "value": "4"}])["env"] == [
        {"name": "A", "value": "1"},
        {"name": "B", "value": "3"},
        {"name": "C", "value": "4"},
    ]


def test_an_entry_that_is_one_thing_or_another_is_replaced() -> None:
    source = {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
    assert server(env=[source])["env"][1] == source
    claim = {"name": "tmp", "persistentVolumeClaim": {"claimName": "c"}}
    assert merged({"volumes": [claim]})["volumes"] == [claim]


def test_one_handler_replaces_another() -> None:
    assert server(lifecycle={"preStop": {"exec": {"command": ["x"]}}})["lifecycle"] == {
        "preStop": {"exec": {"command": ["x"]}}
    }
    assert server(readinessProbe={"tcpSocket": {"port": 1}})["readinessProbe"] == {
        "tcpSocket": {"port": 1},
        "periodSeconds": 1,
    }


def test_lists_without_names_are_replaced_but_tolerations_are_added() -> None:
    assert server(args=["three"])["args"] == ["three"]
    assert len(merged({"tolerations": [{"key": "mine"}]})["tolerations"]) == 2
    assert len(merged({"tolerations": [{"key": "gpu", "operator": "Exists"}]})["tolerations"]) == 1


def test_null_removes() -> None:
    assert "readinessProbe" not in server(readinessProbe=None)
    assert "tolerations" not in merged({"tolerations": None})


def test_the_result_is_canonical() -> None:
    resources = server(resources={"limits": {"nvidia.com/gpu": 1, "cpu": 0.5, "memory": 1e9}, "requests": None})[
        "resources"
    ]
    assert resources == {"limits": {"nvidia.com/gpu": "1", "cpu": "0.5", "memory": "1000000000"}}
    assert merged({"terminationGracePeriodSeconds": 5.0})["terminationGracePeriodSeconds"] == 5


def test_the_base_is_left_as_it_was() -> None:
    server(env=[{"name": "A", "value": "9"}])
    assert BASE["spec"]["containers"][0]["env"][0]["value"] == "1"


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"spec": {}, "sepc": {}}, "unknown field sepc: write metadata and spec"),
        ({"metadata": {"labels": {"moorage.dev/model-deployment": "b"}}}, "selects the pods and must stay a"),
        ({"metadata": {"labels": None}}, "selects the pods and must stay a"),
        ({"spec": {"containers": {"name": "server"}}}, "spec.podTemplate.spec.containers: must be a list"),
        ({"metadata": None}, "selects the pods and must stay a"),
        ({"metadata": 5}, "spec.podTemplate.metadata: must be an object"),
        ({"metadata": {"labels": "x"}}, "spec.podTemplate.metadata.labels: must be an object"),
        ({"spec": None}, "the pod must keep its containers"),
        ({"spec": {"containers": None}}, "the pod must keep its containers"),
        ({"spec": {"containers": []}}, "the pod must keep its containers"),
        ({"spec": {"containers": 5}}, "spec.podTemplate.spec.containers: must be a list"),
        ({"spec": {"containers": [None]}}, "spec.podTemplate.spec.containers[0]: must be an object"),
        ({"spec": {"containers": [{"name": 5}]}}, "spec.podTemplate.spec.containers[0].name: must be text"),
        ({"spec": {"initContainers": 7}}, "spec.podTemplate.spec.initContainers: must be a list"),
        ({"spec": {"containers": [{"name": "server", "env": 5}]}}, "containers[0].env: must be a list"),
        ({"spec": {"containers": [{"name": "server", "env": {"A": "b"}}]}}, "containers[0].env: must be a list"),
        ({"spec": {"containers": [{"name": "server", "env": ["A"]}]}}, "containers[0].env[0]: must be an object"),
        ({"spec": {"containers": [{"name": "server", "resources": {"limits": 1}}]}}, "limits: must be an object"),
        ({"spec": {"volumes": {"a": 1}}}, "spec.podTemplate.spec.volumes: must be a list"),
        ({"spec": {"containers": [{"image": "x"}]}}, "an entry lacks name"),
        (
            {"spec": {"containers": [{"name": "sever"}]}},
            "container sever has no image; ours are called server and trainer",
        ),
        (
            {"spec": {"containers": [{"name": "server", "env": [{"name": "C", "value": 1}]}]}},
            "quote the value, it is text",
        ),
        ({"spec": {"containers": [{"name": "server", "env": [{"name": "PET_X"}]}]}}, "PET_X is the operator's to set"),
        ({"spec": "x"}, "spec.podTemplate.spec: must be an object"),
        ({"spec": {"priority": 2**70}}, "64-bit"),
        ({"spec": {"priority": 1e30}}, "64-bit"),
    ],
)
def test_refused(over: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidSpec) as refusal:
        overlay.apply(BASE, over)
    assert words in refusal.value.message


NAMES = (
    *("metadata", "labels", "spec", "containers", "initContainers", "name", "image", "env", "value", "ports"),
    *("resources", "limits", "volumes", "tolerations", "readinessProbe", "httpGet", "securityContext"),
)
junk = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 9) | st.just(0.5) | st.sampled_from(["", "server", "A"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(NAMES),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)
fields = st.sampled_from(["env", "ports", "resources", "volumeMounts", "lifecycle", "envFrom", "image", "name"])
overlays = st.dictionaries(st.sampled_from(["metadata", "spec"]), junk) | st.builds(
    lambda server, more: {"spec": {"containers": [{"name": "server", **server}], **more}},
    st.dictionaries(fields, junk, max_size=2),
    st.dictionaries(st.sampled_from(["volumes", "tolerations", "initContainers", "nodeSelector"]), junk, max_size=2),
)


@settings(max_examples=400, deadline=None)
@given(overlays)
def test_whatever_it_is_there_is_an_answer(over: dict[str, Any]) -> None:
    """What the schema lets pass is everything: merged, or refused in words, and never anything else."""
    try:
        digest.covers({}, overlay.apply(BASE, over))
    except InvalidSpec as refusal:
        assert refusal.message.startswith("spec.podTemplate")
