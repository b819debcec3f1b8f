"""A status is written when it differs, as what differs; people are told of turns, not of looks."""

from typing import Any

import pytest

from moorage.reconcile.statuses import merge_patch, transitions


@pytest.mark.parametrize(
    ("old", "new", "patch"),
    [
        ({"a": 1}, {"a": 1}, {}),
        ({"a": 1}, {"a": 2}, {"a": 2}),
        ({"a": 1}, {}, {"a": None}),
        ({}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}, {"a": {"c": None}}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, {"a": {"c": 3}}),
        ({"a": [1, 2]}, {"a": [1]}, {"a": [1]}),
        ({"a": [{"b": 1}]}, {"a": [{"b": 1}]}, {}),
        ({"a": 0}, {"a": 0, "b": 0}, {"b": 0}),
    ],
)
def test_the_patch_is_what_changed(old: dict[str, Any], new: dict[str, Any], patch: dict[str, Any]) -> None:
    assert merge_patch(old, new) == patch


def status(**conditions: tuple[str, str]) -> dict[str, Any]:
    return {
        "conditions": [
            {"type": type_, "status": value, "reason": reason, "message": f"because {reason}"}
            for type_, (value, reason) in conditions.items()
        ]
    }


def told(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one.type, one.reason) for one in transitions(old, new)]


def test_the_beginning_is_quiet() -> None:
    assert told({}, status(Ready=("Unknown", "Progressing"), Stalled=("False", "Fine"))) == []


def test_becoming_ready_is_told_once() -> None:
    before, after = status(Ready=("Unknown", "Progressing")), status(Ready=("True", "AllReady"))
    assert told(before, after) == [("Normal", "AllReady")]
    assert told(after, after) == []


def test_what_goes_well_is_told_by_its_headline_alone() -> None:
    before = status(Ready=("Unknown", "x"), ModelLoaded=("Unknown", "x"), CapacityAvailable=("Unknown", "x"))
    after = status(Ready=("True", "AllReady"), ModelLoaded=("True", "Loaded"), CapacityAvailable=("True", "Scheduled"))
    assert told(before, after) == [("Normal", "AllReady")]


def test_the_end_of_a_trouble_is_news() -> None:
    short, enough = (
        status(CapacityAvailable=("False", "Unschedulable")),
        status(CapacityAvailable=("True", "Scheduled")),
    )
    assert told(short, enough) == [("Normal", "Scheduled")]


def test_trouble_is_a_warning_and_so_is_another_trouble() -> None:
    fine = status(ModelLoaded=("True", "Loaded"))
    wrong, worse = status(ModelLoaded=("False", "DigestMismatch")), status(ModelLoaded=("False", "ModelNotFound"))
    assert told(fine, wrong) == [("Warning", "DigestMismatch")]
    assert told(wrong, worse) == [("Warning", "ModelNotFound")]


def test_stalled_is_bad_when_true_and_good_news_when_over() -> None:
    assert told(status(Stalled=("False", "Fine")), status(Stalled=("True", "NameConflict"))) == [
        ("Warning", "NameConflict")
    ]
    assert told(status(Stalled=("True", "NameConflict")), status(Stalled=("False", "Fine"))) == [("Normal", "Fine")]


def test_the_end_of_a_training_is_one_event() -> None:
    before = status(Succeeded=("Unknown", "Running"), Running=("True", "Running"))
    after = status(Succeeded=("True", "Succeeded"), Running=("False", "Succeeded"))
    assert told(before, after) == [("Normal", "Succeeded")]


def test_the_same_trouble_in_several_conditions_is_one_event() -> None:
    new = status(Ready=("False", "ModelNotFound"), ModelLoaded=("False", "ModelNotFound"))
    assert told(status(Ready=("Unknown", "x"), ModelLoaded=("Unknown", "x")), new) == [("Warning", "ModelNotFound")]


def test_every_change_of_replicas_is_told() -> None:
    first = {"time": "t1", "from": 1, "to": 2, "reason": "demand 13 / target 8 → 2"}
    second = {"time": "t2", "from": 2, "to": 1, "reason": "demand 1 / target 8 → 1"}
    old, new = {"scaling": {"history": [first]}}, {"scaling": {"history": [first, second]}}
    assert [one.note for one in transitions(old, new)] == ["replicas 2 → 1: demand 1 / target 8 → 1"]
    assert transitions(new, new) == []
