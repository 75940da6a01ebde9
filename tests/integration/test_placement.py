"""Placement tables: what they say reaches the compiled pipeline, fits the manifests, and mistakes are named at once."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.compiling import dag_tasks, documents
from pipelines.placement import GKE_ACCELERATOR, PLACEMENTS, THIS_MACHINE, Pool, placements, read_placement
from pipelines.settings import TASKS
from unifl.core.errors import SettingsError

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
CPU_STEPS = {"preflight", "resolve_data", "validate_data", "prompt_curation", "quality_gate", "run_summary"}
FLAVORS = {"gke-l4-spot": "unifl-l4-spot", "gke-a100": "unifl-a100", "gke-h100-flex": "unifl-h100"}


def executors() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Task of the pipeline compiled for spot L4s -> its container, and what is said about it to Kubernetes."""
    text = (ROOT / "pipelines/compiled/gke-l4-spot/feedback_learning.yaml").read_text(encoding="utf-8")
    spec, platform = documents(text)
    kubernetes = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    found = {}
    for task in dag_tasks(spec).values():
        label = spec["components"][task["componentRef"]["name"]]["executorLabel"]
        found[task["taskInfo"]["name"]] = spec["deploymentSpec"]["executors"][label]["container"], kubernetes[label]
    return found


def flavors() -> dict[str, dict[str, Any]]:
    """Kueue's flavors by name, as in the base; the GKE overlay adds the toleration of its queued pool."""
    content = yaml.safe_load_all((ROOT / "manifests/base/queues.yaml").read_text(encoding="utf-8"))
    return {each["metadata"]["name"]: each["spec"] for each in content if each["kind"] == "ResourceFlavor"}


def written(folder: Path, content: dict[str, Any]) -> str:
    (folder / "mine.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(folder / "mine.yaml")


def test_a_training_step_on_spot_asks_for_a_gpu_its_node_memory_disk_and_time() -> None:
    container, kubernetes = executors()["decoupled_feedback"]
    assert container["resources"]["accelerator"]["resourceType"] == "nvidia.com/gpu"
    assert container["resources"]["accelerator"]["resourceCount"] == "1"
    assert kubernetes["nodeSelector"]["labels"] == {GKE_ACCELERATOR: "nvidia-l4", "cloud.google.com/gke-spot": "true"}
    (toleration,) = kubernetes["tolerations"]
    assert toleration == {
        "key": "cloud.google.com/gke-spot",
        "operator": "Equal",
        "value": "true",
        "effect": "NoSchedule",
    }
    volumes = {volume["mountPath"]: volume for volume in kubernetes["emptyDirMounts"]}
    assert (volumes["/dev/shm"]["medium"], volumes["/dev/shm"]["sizeLimit"]) == ("Memory", "8Gi")
    assert volumes["/tmp"]["sizeLimit"] == "50Gi"
    assert kubernetes["activeDeadlineSeconds"] == str(24 * 3600)


@pytest.mark.parametrize(
    "pipeline", ["feedback_learning", "base_model", "publish", "evaluation_only", "acceleration_only"]
)
def test_every_compiled_task_says_how_often_it_is_tried_how_long_it_may_take_and_whether_it_is_cached(
    pipeline: str,
) -> None:
    table = read_placement("gke-l4-spot")
    text = (ROOT / f"pipelines/compiled/gke-l4-spot/{pipeline}.yaml").read_text(encoding="utf-8")
    spec, platform = documents(text)
    kubernetes = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    run = 0
    for task in dag_tasks(spec).values():
        name, label = task["taskInfo"]["name"], spec["components"][task["componentRef"]["name"]]["executorLabel"]
        if "importer" in spec["deploymentSpec"]["executors"][label]:
            continue
        needs, run = table.needs(name), run + 1
        tried = task.get("retryPolicy", {})
        assert tried.get("maxRetryCount", 0) == needs.retries.times
        if needs.retries.times:
            assert tried["backoffDuration"] == f"{needs.retries.first_wait_seconds}s"
            assert tried["backoffFactor"] == needs.retries.factor
            assert tried["backoffMaxDuration"] == f"{needs.retries.longest_wait_seconds}s"
        assert kubernetes[label]["activeDeadlineSeconds"] == str(round(needs.timeout_hours * 3600))
        cached = task["cachingOptions"].get("enableCache", False)
        assert cached == (name not in ("preflight", "run_summary", "publish"))
    assert run
    assert "sdkVersion" not in text


def test_checkpoints_of_a_gpu_step_lie_on_the_claim_of_the_manifests() -> None:
    container, kubernetes = executors()["adversarial_feedback"]
    claim = yaml.safe_load((ROOT / "manifests/base/storage.yaml").read_text(encoding="utf-8"))
    (mount,) = kubernetes["pvcMount"]
    assert (mount["constant"], mount["mountPath"]) == (claim["metadata"]["name"], "/unifl")
    assert {"name": "UNIFL_CHECKPOINTS", "value": "/unifl/checkpoints"} in container["env"]


def test_every_task_leaves_its_note_in_the_workspace_under_the_run_s_id() -> None:
    for task, (container, kubernetes) in executors().items():
        variables = {entry["name"]: entry["value"] for entry in container["env"]}
        assert (variables["UNIFL_TASK"], variables["UNIFL_NOTES"]) == (task, "/unifl/notes")
        assert kubernetes["fieldPathAsEnv"] == [
            {"name": "UNIFL_RUN_ID", "fieldPath": "metadata.labels['pipeline/runid']"}
        ]
        assert kubernetes["pvcMount"][0]["mountPath"] == "/unifl"


def test_the_webhook_s_secret_goes_by_name_to_the_two_tasks_that_need_it() -> None:
    holders = {task: pod["secretAsEnv"] for task, (_, pod) in executors().items() if "secretAsEnv" in pod}
    assert set(holders) == {"preflight", "run_summary"}
    for (secret,) in holders.values():
        assert (secret["secretName"], secret["optional"]) == ("unifl-webhook", True)
        assert secret["keyToEnv"] == [{"secretKey": "url", "envVar": "UNIFL_WEBHOOK_URL"}]


def test_preflight_and_the_summary_never_come_from_the_cache(tmp_path: Path) -> None:
    table = read_placement(written(tmp_path, {"tasks": {"preflight": {"cached": True}}}))
    assert not table.cached("preflight")
    assert not table.cached("run_summary")


def test_a_publishing_task_mounts_nothing_of_the_workspace() -> None:
    text = (ROOT / "pipelines/compiled/publish.yaml").read_text(encoding="utf-8")
    assert "pvcMount" not in text
    assert "UNIFL_NOTES" not in text


def test_cpu_steps_stay_off_gpu_nodes() -> None:
    for task, (container, kubernetes) in executors().items():
        asks = "accelerator" in container["resources"]
        assert asks == (task not in CPU_STEPS), task
        if not asks:
            assert "tolerations" not in kubernetes, task
            assert "nodeSelector" not in kubernetes, task
            (term,) = kubernetes["nodeAffinity"]
            assert term["matchExpressions"] == [{"key": GKE_ACCELERATOR, "operator": "DoesNotExist"}], task


@pytest.mark.parametrize("name", sorted(FLAVORS))
def test_gpu_nodes_are_those_of_the_manifests_flavors(name: str) -> None:
    pool, flavor = read_placement(name).pools["gpu"], flavors()[FLAVORS[name]]
    flex = {"cloud.google.com/gke-flex-start": "true"} if pool.capacity == "flex-start" else {}
    assert pool.labels() == {**flavor["nodeLabels"], **flex}
    by_gke = "nvidia.com/gpu"
    expected = [toleration for toleration in flavor["tolerations"] if toleration["key"] != by_gke]
    assert [toleration.model_dump(exclude_none=True) for toleration in pool.tolerated()] == expected


def test_the_node_pools_of_the_placements_are_made_in_the_guide() -> None:
    guide = (ROOT / "docs/gke.md").read_text(encoding="utf-8").replace("\\\n", " ")
    made = re.findall(r"^gcloud container node-pools create (\S+) (.*)$", guide, re.MULTILINE)
    kinds = {name: re.findall(r"--accelerator type=([^,]+)", options)[0] for name, options in made}
    for placement in FLAVORS:
        pool = placement.removeprefix("gke-")
        assert kinds[pool] == read_placement(placement).pools["gpu"].gpu
        options = dict(made)[pool]
        assert ("--spot" in options) == (read_placement(placement).pools["gpu"].capacity == "spot")
        assert ("--flex-start" in options) == (read_placement(placement).pools["gpu"].capacity == "flex-start")
        assert "--enable-queued-provisioning" not in options, "a pod outside Kueue never gets a node of such a pool"


def test_every_placement_of_the_project_is_valid_and_says_what_it_is() -> None:
    assert len(placements()) >= 4
    for name in placements():
        table = read_placement(name)
        assert table.description, name
        assert table.label_pods, f"{name}: alerts go by the label"
        assert not table.needs("quality_gate").retries.times, name
        assert not table.cached("publish"), name
        assert [table.needs(task).gpus for task in CPU_STEPS] == [0] * len(CPU_STEPS), name


def test_this_machine_asks_for_nothing() -> None:
    assert all(THIS_MACHINE.needs(task) == Pool() and THIS_MACHINE.cached(task) for task in TASKS)


def test_a_task_s_own_line_goes_before_its_step_s_and_its_pool_s(tmp_path: Path) -> None:
    table = read_placement(
        written(
            tmp_path,
            {
                "pools": {"gpu": {"gpu": "nvidia-l4", "gpus": 1, "memory": "24Gi", "timeout_hours": 24}},
                "tasks": {
                    "reward_model": {"pool": "gpu", "timeout_hours": 2},
                    "reward_model_color": {"pool": "gpu", "gpus": 4, "memory": "90Gi"},
                },
            },
        )
    )
    layout, color = table.needs("reward_model_layout"), table.needs("reward_model_color")
    assert (layout.gpus, layout.memory, layout.timeout_hours) == (1, "24Gi", 2)
    assert (color.gpus, color.memory, color.timeout_hours) == (4, "90Gi", 24)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"pools": {"gpu": {"gpu": "nvidia-l44", "gpus": 1}}}, r"pools\.gpu\.gpu: .*did you mean nvidia-l4\?"),
        ({"pools": {"gpu": {"tolerationss": []}}}, r"pools\.gpu\.tolerationss .*did you mean tolerations\?"),
        ({"default": {"retries": {"time": 2}}}, r"default\.retries\.time .*did you mean times\?"),
        ({"pool": {}}, r"pool is not a setting \(did you mean pools\?\)"),
        ({"tasks": {"evaluatoin": {}}}, r"evaluatoin is no task \(did you mean evaluation\?\)"),
        ({"pools": {"gpu": {}}, "tasks": {"evaluation": {"pool": "gpus"}}}, r"evaluation\.pool: .*did you mean gpu\?"),
        ({"tasks": {"evaluation": {"gpus": 2}}}, r"tasks\.evaluation\.gpus without gpu"),
        ({"default": {"gpu": "nvidia-l4"}}, r"needs gpus: 1 or more"),
        (
            {"workspace": {}, "pools": {"gpu": {"claim": "mine"}}},
            r"pools\.gpu\.claim: the workspace is another volume, unifl-work",
        ),
        ({"webhook": {"secrte": "x"}}, r"webhook\.secrte .*did you mean secret\?"),
        ({"default": {"memory": "4 GB"}}, r"default\.memory.*4 GB"),
        ({"default": {"memory": "4Gi", "shared_memory": "8Gi"}}, r"shared_memory counts as memory"),
        (
            {"default": {"gpu": "nvidia-l4", "gpus": 1, "avoid": [GKE_ACCELERATOR]}},
            r"gke-accelerator is selected and avoided",
        ),
        (
            {"default": {"gpu": "nvidia-h100-80gb", "gpus": 1, "capacity": "flex-start", "timeout_hours": 200}},
            r"flex-start node lives for 7 days",
        ),
    ],
)
def test_a_wrong_table_is_named_in_one_line(tmp_path: Path, content: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=named) as raised:
        read_placement(written(tmp_path, content))
    assert "mine.yaml" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_all_mistakes_of_a_table_are_named_together(tmp_path: Path) -> None:
    table = {"default": {"cpus": 1}, "pools": {"gpu": {"gpu": "nvidia-b200", "gpus": 1}}}
    with pytest.raises(SettingsError) as raised:
        read_placement(written(tmp_path, table))
    assert "default.cpus" in str(raised.value)
    assert "nvidia-b200" in str(raised.value)


def test_an_unknown_placement_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"did you mean gke-l4-spot\?"):
        read_placement("gke-l4-spo")
    with pytest.raises(SettingsError, match="can't be read"):
        read_placement(str(tmp_path / "none.yaml"))


def test_components_hold_no_scheduling_words() -> None:
    words = re.compile(r"kubernetes|nvidia|toleration|node_selector|\.set_(accelerator|gpu|cpu|memory|retry|env)")
    for file in sorted((ROOT / "components").glob("*/component.py")):
        assert not words.search(file.read_text(encoding="utf-8")), file


def test_tables_are_the_only_place_that_names_a_kind_of_gpu() -> None:
    for file in sorted((ROOT / "pipelines").glob("*.py")):
        assert not re.search(r"nvidia-(l4|a100|h100|t4)", file.read_text(encoding="utf-8")), file
    assert any("nvidia-l4" in file.read_text(encoding="utf-8") for file in PLACEMENTS.glob("*.yaml"))
