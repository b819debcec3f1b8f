"""The operator may do what its code does, and nothing beside it."""

import pytest

from chart.rendered import Manifest, Render, Rendered
from chart.variants import VARIANTS
from moorage.kube import kinds

WRITE = {"create", "patch", "delete"}


def rules(roles: list[Manifest]) -> dict[tuple[str, str], set[str]]:
    """Verbs by (group, resource)."""
    found: dict[tuple[str, str], set[str]] = {}
    for role in roles:
        for rule in role["rules"]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    found.setdefault((group, resource), set()).update(rule["verbs"])
    return found


def operators(rendered: Rendered, name: str = "moorage") -> dict[tuple[str, str], set[str]]:
    return rules(rendered.of("ClusterRole", name) + rendered.of("Role", name))


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_wildcard_and_nothing_dangerous(render: Render, variant: str) -> None:
    rendered = render(VARIANTS[variant])
    for (group, resource), verbs in rules(rendered.of("ClusterRole") + rendered.of("Role")).items():
        assert "*" not in {group, resource, *verbs}
        assert not verbs & {"escalate", "bind", "impersonate"}
        assert resource not in {"secrets", "pods/exec", "pods/attach", "pods/log", "serviceaccounts", "nodes"}


def test_the_operator_may_do_what_its_code_does(render: Render) -> None:
    granted = operators(render())
    for kind in kinds.OWNERS:
        assert {"get", "list", "watch"} <= granted[kind.group, kind.plural]
        assert granted[kind.group, f"{kind.plural}/status"] == {"patch"}
    for kind in kinds.CHILDREN:
        assert {"list", "watch"} | WRITE <= granted[kind.group, kind.plural]
    assert {"list"} | WRITE <= granted[kinds.POD_MONITOR.group, kinds.POD_MONITOR.plural]
    assert granted[kinds.EVENT.group, kinds.EVENT.plural] == {"create", "list", "patch"}
    for kind in (kinds.POD, kinds.REPLICA_SET):
        assert granted[kind.group, kind.plural] == {"list", "watch"}
    known = {(kind.group, kind.plural) for kind in kinds.BY_KIND.values()}
    assert {(group, resource.split("/")[0]) for group, resource in granted} <= known, "a right nobody uses"


def test_never_writes_what_users_wrote(render: Render) -> None:
    for kind in kinds.OWNERS:
        assert operators(render())[kind.group, kind.plural] == {"get", "list", "watch"}


def test_lease_in_its_own_namespace_by_its_own_name(render: Render) -> None:
    rendered = render({"lease": {"name": "mine"}})
    role = rendered.one("Role", "moorage-leader-election")
    assert role["metadata"]["namespace"] == "moorage-system"
    create, renew = role["rules"]
    assert create["verbs"] == ["create"]
    assert renew["resourceNames"] == ["mine"]
    assert renew["verbs"] == ["get", "update"]
    assert rendered.environment["MOORAGE_LEASE_NAME"] == "mine"
    assert rendered.environment["MOORAGE_LEASE_NAMESPACE"] == "moorage-system"


def test_with_namespaces_no_right_over_the_cluster(render: Render) -> None:
    everywhere, scoped = render(), render(VARIANTS["some namespaces"])
    assert scoped.of("ClusterRole", "moorage") == []
    assert scoped.of("ClusterRoleBinding") == []
    roles = scoped.of("Role", "moorage")
    assert {r["metadata"]["namespace"] for r in roles} == {"team-a", "team-b"}
    assert all(role["rules"] == everywhere.one("ClusterRole", "moorage")["rules"] for role in roles)
    assert scoped.environment["MOORAGE_NAMESPACES"] == "team-a,team-b"


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_binding_names_the_operators_account_and_a_role_that_is_there(render: Render, variant: str) -> None:
    rendered = render(VARIANTS[variant])
    account = rendered.operator["spec"]["serviceAccountName"]
    for binding in rendered.of("RoleBinding") + rendered.of("ClusterRoleBinding"):
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": "moorage-system"}]
        assert rendered.of(binding["roleRef"]["kind"], binding["roleRef"]["name"])
    assert [a["metadata"]["name"] for a in rendered.of("ServiceAccount")] in ([account], [])


def test_viewers_and_editors(render: Render) -> None:
    rendered = render()
    viewer, editor = rendered.one("ClusterRole", "moorage-viewer"), rendered.one("ClusterRole", "moorage-editor")
    aggregate = "rbac.authorization.k8s.io/aggregate-to-"
    assert viewer["metadata"]["labels"][f"{aggregate}view"] == "true"
    assert f"{aggregate}view" not in editor["metadata"]["labels"]
    assert editor["metadata"]["labels"][f"{aggregate}edit"] == "true"
    assert all(verbs == {"get", "list", "watch"} for verbs in rules([viewer]).values())
    may_edit = rules([editor])
    assert may_edit["moorage.dev", "modeldeployments/scale"] == {"update", "patch"}
    assert not any(resource.endswith("/status") for _, resource in may_edit)
