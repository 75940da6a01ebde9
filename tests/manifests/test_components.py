"""What an overlay can take in addition, and what is applied once beside it: ways out, and the group of the volume."""

import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from pipelines.placement import placements, read_placement
from tests.manifests import rules
from tests.manifests.overlay import MANIFESTS, OVERLAYS, Resource, built, find, kustomize, of_kind
from tests.manifests.schemas import schema_errors


def ways_out(resources: list[Resource]) -> dict[str, set[str]]:
    """Policy -> the tasks that it lets out of the cluster."""
    out = {}
    for policy in of_kind(resources, "NetworkPolicy"):
        for rule in policy["spec"].get("egress", []):
            if any(peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0" for peer in rule["to"]):
                out[policy["metadata"]["name"]] = rules.tasks_let_out(policy, rule)
    return out


def test_no_task_leaves_the_cluster_but_those_that_ask_the_git_server() -> None:
    for overlay in OVERLAYS:
        assert ways_out(built(overlay)) == {"allow-git-repository": {"preflight", "resolve_data"}}


def test_the_webhook_s_component_lets_the_run_s_summary_out_and_nothing_else(tmp_path: Path) -> None:
    shutil.copytree(MANIFESTS, tmp_path / "manifests")
    file = tmp_path / "manifests" / "overlays" / "gke" / "kustomization.yaml"
    text = yaml.safe_load(file.read_text(encoding="utf-8"))
    text["components"] = ["../../images", "../../components/webhook"]  # and without the git server's
    file.write_text(yaml.safe_dump(text), encoding="utf-8")
    result = kustomize(file.parent)
    assert result.returncode == 0, result.stderr
    resources = list(yaml.safe_load_all(result.stdout))
    assert ways_out(resources) == {"allow-webhook": {"run_summary"}}
    assert rules.openings_of_the_network(resources) == []
    assert schema_errors(find(resources, "NetworkPolicy", "allow-webhook")) == []


def test_every_placement_gives_the_label_that_the_ways_out_go_by() -> None:
    assert all(read_placement(name).label_pods for name in placements())


def test_the_volume_is_given_to_the_images_group_by_a_pod_without_rights() -> None:
    result = kustomize(MANIFESTS / "overlays" / "gke" / "work_volume")
    assert result.returncode == 0, result.stderr
    (job,) = resources = list(yaml.safe_load_all(result.stdout))
    assert schema_errors(job) == []
    for rule in (rules.pods_that_could_gain_rights, rules.containers_without_limits, rules.images_without_digest):
        assert rule(resources) == []
    assert rules.quantities_that_are_numbers(resources) == []
    assert rules.names_without_a_bearer([*built("gke"), job]) == []
    pod = job["spec"]["template"]["spec"]
    user = {key: pod["securityContext"][key] for key in ("runAsUser", "runAsGroup", "fsGroup")}
    assert set(user.values()) == {1000}
    for name in ("data", "train"):
        dockerfile = MANIFESTS.parent / "images" / name / "Dockerfile"
        assert "\nUSER 1000:1000\n" in dockerfile.read_text(encoding="utf-8")


def test_the_job_s_command_is_one_that_the_project_has(tmp_path: Path) -> None:
    """Run as in its container, but on a folder of this machine: it ends well where it can write, and else says so."""
    (job,) = yaml.safe_load_all(kustomize(MANIFESTS / "overlays" / "gke" / "work_volume").stdout)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    program, *arguments = [*container["command"], *container["args"]]
    assert program == "unifl"
    for folder, code in ((tmp_path, 0), (Path("/proc"), 8)):
        replaced = [
            word.replace("/unifl", str(folder)).replace(": 20", ": 0").replace("/tmp/report", f"{tmp_path}/report")
            for word in arguments
        ]
        ended = subprocess.run(
            [sys.executable, "-m", "unifl", *replaced], capture_output=True, text=True, check=False, timeout=300
        )
        assert ended.returncode == code, ended.stderr
    assert "can't write there" in ended.stderr
