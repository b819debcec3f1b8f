"""The machine's settings come back as they were, also when two clusters overlap."""

from pathlib import Path

import pytest

from cluster import sysctls


class Machine:
    def __init__(self, folder: Path) -> None:
        self.proc_sys, self.note = folder / "sys", folder / "note.json"
        (self.proc_sys / "vm").mkdir(parents=True)
        self.set("0")
        self.clusters = [folder / "a", folder / "b"]
        for cluster in self.clusters:
            cluster.mkdir()

    def set(self, value: str) -> None:
        (self.proc_sys / "vm" / "overcommit_memory").write_text(value + "\n")

    @property
    def value(self) -> str:
        return (self.proc_sys / "vm" / "overcommit_memory").read_text().strip()

    def up(self, i: int) -> None:
        sysctls.save(self.clusters[i], self.note, self.proc_sys)
        self.set("1")  # the kubelet

    def down(self, i: int) -> None:
        sysctls.restore(self.clusters[i], self.note, self.proc_sys)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_what_a_kubelet_changed_is_put_back(machine: Machine) -> None:
    machine.up(0)
    machine.down(0)
    assert machine.value == "0"
    assert not machine.note.exists()


def test_saving_twice_does_not_save_the_change(machine: Machine) -> None:
    machine.up(0)
    machine.up(0)
    machine.down(0)
    assert machine.value == "0"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_last_of_two_clusters_puts_back_the_machine_s_own(machine: Machine, order: tuple[int, int]) -> None:
    machine.up(0)
    machine.up(1)
    machine.down(order[0])
    assert machine.value == "1", "the other one's kubelet still runs"
    machine.down(order[1])
    assert machine.value == "0"


def test_a_cluster_whose_folder_was_removed_by_hand_counts_for_nothing(machine: Machine) -> None:
    machine.up(0)
    machine.up(1)
    machine.clusters[0].rmdir()
    machine.down(1)
    assert machine.value == "0"


def test_nothing_saved_is_nothing_restored(machine: Machine) -> None:
    machine.set("1")
    machine.down(0)
    assert machine.value == "1"
