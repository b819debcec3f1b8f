"""`covers` forgives what the API server rewrites and sees what somebody else changed; the traps are those measured."""

import copy
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.desired.digest import covers, digest, stamp

FORGIVEN: dict[str, tuple[Any, Any]] = {
    # name: (desired, live)
    "cpu in thousandths": ({"requests": {"cpu": "1000m"}}, {"requests": {"cpu": "1"}}),
    "cpu as a decimal": ({"requests": {"cpu": "0.5"}}, {"requests": {"cpu": "500m"}}),
    "cpu rounded up": ({"requests": {"cpu": "0.0005"}}, {"requests": {"cpu": "1m"}}),
    "memory in Mi": ({"limits": {"memory": "1024Mi"}}, {"limits": {"memory": "1Gi"}}),
    "memory as a fraction": ({"limits": {"memory": "1.5Gi"}}, {"limits": {"memory": "1536Mi"}}),
    "memory decimal": ({"limits": {"memory": "1000M"}}, {"limits": {"memory": "1G"}}),
    "memory in bytes": ({"limits": {"memory": "1073741824"}}, {"limits": {"memory": "1Gi"}}),
    "exponent": ({"limits": {"memory": "1e9"}}, {"limits": {"memory": "1G"}}),
    "sizeLimit": ({"emptyDir": {"sizeLimit": "2048Mi"}}, {"emptyDir": {"sizeLimit": "2Gi"}}),
    "empty list": ({"args": [], "name": "a"}, {"name": "a"}),
    "empty object": ({"nodeSelector": {}}, {}),
    "empty text": ({"env": [{"name": "A", "value": ""}]}, {"env": [{"name": "A"}]}),
    "false": ({"hostNetwork": False}, {}),
    "zero": ({"minReadySeconds": 0}, {}),
    "null": ({"affinity": None}, {}),
    "more fields": ({"httpGet": {"port": 80}}, {"httpGet": {"port": 80, "scheme": "HTTP", "path": "/"}}),
    "more entries": ({"env": [{"name": "A", "value": "1"}]}, {"env": [{"name": "B"}, {"name": "A", "value": "1"}]}),
    "env order": (
        {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]},
        {"env": [{"name": "B", "value": "2"}, {"name": "A", "value": "1"}]},
    ),
    "a volume mounted twice": (
        {"volumeMounts": [{"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/b"}]},
        {"volumeMounts": [{"name": "v", "mountPath": "/b"}, {"name": "v", "mountPath": "/a"}]},
    ),
    "protocol defaulted": (
        {"ports": [{"containerPort": 1}]}, {"ports": [{"containerPort": 1, "protocol": "TCP"}]},
    ),
    "one port, two protocols": (
        {"ports": [{"port": 1, "protocol": "UDP", "name": "u"}, {"port": 1, "name": "t"}]},
        {"ports": [{"port": 1, "protocol": "TCP", "name": "t"}, {"port": 1, "protocol": "UDP", "name": "u"}]},
    ),
    "whole float": ({"replicas": 1.0}, {"replicas": 1}),
}  # fmt: skip

SEEN: dict[str, tuple[Any, Any]] = {
    "another value": ({"image": "a"}, {"image": "b"}),
    "removed": ({"image": "a"}, {}),
    "scaled by somebody": ({"replicas": 0}, {"replicas": 3}),
    "switched on": ({"hostNetwork": False}, {"hostNetwork": True}),
    "text set": ({"env": [{"name": "A", "value": ""}]}, {"env": [{"name": "A", "value": "x"}]}),
    "another quantity": ({"limits": {"memory": "1Gi"}}, {"limits": {"memory": "1G"}}),
    "limit removed": ({"limits": {"memory": "1Gi"}}, {"limits": {}}),
    "entry removed": ({"env": [{"name": "A", "value": "1"}]}, {"env": [{"name": "B"}]}),
    "argument added": ({"args": ["a"]}, {"args": ["a", "b"]}),
    "argument order": ({"command": ["a", "b"]}, {"command": ["b", "a"]}),
    "owner removed": ({"ownerReferences": [{"uid": "1"}]}, {"ownerReferences": [{"uid": "2"}]}),
    "true is not 1": ({"x": 1}, {"x": True}),
    "no object at all": ({"a": {"b": 1}}, None),
}


@pytest.mark.parametrize("case", FORGIVEN)
def test_forgiven(case: str) -> None:
    desired, live = FORGIVEN[case]
    assert covers(live, desired)


@pytest.mark.parametrize("case", SEEN)
def test_seen(case: str) -> None:
    desired, live = SEEN[case]
    assert not covers(live, desired)


def test_a_dropped_field_shows_in_the_digest() -> None:
    """covers alone cannot know that a field it no longer wants was ours."""
    before = stamp({"metadata": {"name": "a"}, "spec": {"x": 1, "y": 2}})
    after = stamp({"metadata": {"name": "a"}, "spec": {"x": 1}})
    assert covers(before, {"metadata": {"name": "a"}, "spec": {"x": 1}})
    assert not covers(before, after)


def test_stamping_twice_is_stamping_once_and_leaves_the_original() -> None:
    obj = {"metadata": {"name": "a", "annotations": {"k": "v"}}, "spec": {}}
    original = copy.deepcopy(obj)
    assert stamp(stamp(obj)) == stamp(obj)
    assert obj == original
    assert stamp(obj)["metadata"]["annotations"]["k"] == "v"


leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=5)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "value", "env", "args", "limits", "ports", "a", "b"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=4), values, max_size=4))
def test_an_object_covers_itself_and_its_stamp_covers_it(spec: dict[str, Any]) -> None:
    obj = {"metadata": {"name": "a"}, "spec": spec}
    assert covers(stamp(obj), obj)
    assert covers(stamp(obj), stamp(obj))


def test_what_json_cannot_hold_has_no_digest() -> None:
    with pytest.raises(TypeError, match="64-bit"):
        digest({"a": 2**70})


@given(values)
def test_a_digest_is_of_json_as_the_standard_library_writes_it(value: Any) -> None:
    plain = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert digest(value) == hashlib.sha256(plain.encode()).hexdigest()[:32]


@given(values)
def test_a_digest_does_not_depend_on_the_order_of_keys(value: Any) -> None:
    def turned(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: turned(node[key]) for key in reversed(node)}
        return [turned(item) for item in node] if isinstance(node, list) else node

    assert digest(value) == digest(turned(value))
