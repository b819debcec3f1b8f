"""A condition's time says since when, not when last looked at."""

from moorage.api.conditions import find, renewed, set_condition


def put(conditions: list[dict], status: str, now: str, *, type: str = "Ready", reason: str = "R", generation: int = 1):
    return set_condition(
        conditions, type=type, status=status, reason=reason, message="m", generation=generation, now=now
    )


def test_a_new_condition_is_added_behind_the_others() -> None:
    conditions = put(put([], "True", "1", type="A"), "True", "2", type="B")
    assert [c["type"] for c in conditions] == ["A", "B"]


def test_the_time_moves_only_with_the_status() -> None:
    first = put([], "Unknown", "1")
    same = put(first, "Unknown", "2", reason="Other", generation=2)
    assert find(same, "Ready")["lastTransitionTime"] == "1"
    assert (find(same, "Ready")["reason"], find(same, "Ready")["observedGeneration"]) == ("Other", 2)
    assert find(put(same, "True", "3"), "Ready")["lastTransitionTime"] == "3"


def test_nothing_is_changed_in_place() -> None:
    first = put([], "Unknown", "1")
    put(first, "True", "2")
    assert first[0]["status"] == "Unknown"


def test_renewed_are_the_wanted_ones_in_their_order_with_their_times() -> None:
    first = renewed(None, {"Old": ("True", "R", "m"), "Ready": ("True", "R", "m")}, generation=1, now="1")
    second = renewed(first, {"New": ("True", "R", "m"), "Ready": ("True", "S", "m")}, generation=2, now="2")
    assert [(c["type"], c["reason"], c["lastTransitionTime"]) for c in second] == [
        ("New", "R", "2"),
        ("Ready", "S", "1"),
    ]


def test_a_message_of_any_length_fits() -> None:
    (condition,) = set_condition(
        [], type="Ready", status="False", reason="Rejected", message=f"begin{'x' * 1_000_000}end", generation=1, now="1"
    )
    assert len(condition["message"]) < 4100
    assert condition["message"].startswith("begin") and condition["message"].endswith("end")
