"""The chart is sound to helm itself, and a packaged one is complete."""

import tarfile
from pathlib import Path

import yaml

from chart.rendered import CHART, CRDS, Helm


def test_lint(helm: Helm) -> None:
    helm("lint", "--strict", str(CHART))


def test_package_holds_the_crds_as_files_and_renders_the_same(helm: Helm, tmp_path: Path) -> None:
    helm("package", str(CHART), "--destination", str(tmp_path))
    (package,) = tmp_path.glob("*.tgz")
    with tarfile.open(package) as tar:
        members = {m.name for m in tar.getmembers()}
        assert all(m.isreg() for m in tar.getmembers())
    crds = {f"moorage/files/crds/{path.name}" for path in CRDS}
    assert len(crds) == 2
    assert crds <= members
    assert not any("Kustomization" in name for name in members)
    assert helm("template", "moorage", str(package)) == helm("template", "moorage", str(CHART))


def test_versions_are_the_projects() -> None:
    from moorage import __version__

    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == __version__


def test_notes_say_what_is_missing(helm: Helm) -> None:
    # `helm template` leaves the notes out; a client-side dry run of install prints them.
    def notes(*values: str) -> str:
        options = [part for value in values for part in ("--set", value)]
        text = helm("install", "moorage", str(CHART), "-n", "apps", "--dry-run=client", *options)
        return text[text.index("NOTES:") :]

    assert "nothing scales by load" in notes()
    assert "nothing scales by load" not in notes("prometheus.url=http://p:9090")
    assert "leaves the CRDs" in notes()
    assert "deletes the CRDs" in notes("crds.keep=false")
    assert "team-a, team-b" in notes("watchNamespaces={team-a,team-b}")
