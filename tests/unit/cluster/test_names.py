"""Two clusters on one machine share nothing that is derived from a name."""

from pathlib import Path

import pytest

from cluster.names import Names, default_name


def test_two_checkouts_have_two_names_without_anybody_choosing(tmp_path: Path) -> None:
    assert default_name("full", tmp_path / "a") != default_name("full", tmp_path / "b")
    assert default_name("full", tmp_path / "a") == default_name("full", tmp_path / "a")


def test_the_tiers_of_one_checkout_are_two_clusters() -> None:
    assert default_name("api") != default_name("full")


def test_all_that_is_seen_outside_the_folder_carries_the_name(tmp_path: Path) -> None:
    a, b = Names("a", tmp_path), Names("b", tmp_path)
    for look in (
        lambda n: n.state,
        lambda n: n.control_netns,
        lambda n: n.node_netns(1),
        lambda n: n.cgroup(1),
        lambda n: n.marker,
    ):
        assert look(a) != look(b)


def test_ports_differ_by_name_and_by_checkout(tmp_path: Path) -> None:
    blocks = {Names(name, tmp_path / place).ports()[0] for name in "abc" for place in "xy"}
    assert len(blocks) == 6
    assert all(20000 <= port < 32768 - 10 for port in blocks)


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a/b", "..", "a" * 41, "a b"])
def test_a_name_that_could_lead_elsewhere_is_refused_with_what_to_write(name: str) -> None:
    with pytest.raises(ValueError, match="use up to 40 of a-z, 0-9 and -"):
        Names(name)
