"""What Kubeflow Trainer does to a TrainJob, done by hand: pods of its nodes, their logs, and the job's condition."""

import copy
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kubernetes import client

from tests.control_plane.conftest import TEST_LABEL, Cluster
from tests.control_plane.kubelet import NODE, Kubelet
from tests.control_plane.plane import NAMESPACE, eventually
from tests.control_plane.task_pods import IMAGE
from tests.manifests.overlay import find

PLACE = ("trainer.kubeflow.org", "v1alpha1", NAMESPACE, "trainjobs")


class Trainer:
    """Acts on the TrainJobs of a cluster, as an administrator."""

    def __init__(self, cluster: Cluster, kubelet: Kubelet) -> None:
        self.cluster, self.kubelet = cluster, kubelet
        self.api = client.CustomObjectsApi(cluster.plane.client())
        self.core = cluster.core()

    def jobs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.api.list_namespaced_custom_object(*PLACE)["items"]
        return found

    def posted(self) -> dict[str, Any]:
        """The TrainJob as soon as somebody has submitted one."""
        return eventually(lambda: next(iter(self.jobs()), None), "TrainJob")

    def folder(self, job: dict[str, Any]) -> Path:
        """Where the job's command looks for its work: the path that the SDK has written into the shell script."""
        script = " ".join(job["spec"]["trainer"]["command"])
        return Path(re.findall(r"['\"](/[^'\"]*/job)/job\.json['\"]", script)[0])

    def start_pods(self, job: dict[str, Any]) -> list[str]:
        """The pods of the job's nodes, running, from the runtime's template and what the job says of a node."""
        runtime = find(self.cluster.resources, "ClusterTrainingRuntime", "unifl-torch")
        replicated = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]
        name, trainer = job["metadata"]["name"], job["spec"]["trainer"]
        for rank in range(trainer["numNodes"]):
            spec = copy.deepcopy(replicated["template"]["spec"]["template"]["spec"])
            spec["nodeName"] = NODE
            (container,) = spec["containers"]
            container |= {"image": IMAGE, "command": trainer["command"], "resources": trainer["resourcesPerNode"]}
            labels = {
                TEST_LABEL: "trainer",
                "jobset.sigs.k8s.io/jobset-name": name,
                "jobset.sigs.k8s.io/replicatedjob-name": replicated["name"],
                "batch.kubernetes.io/job-completion-index": str(rank),
            }
            metadata = {"name": f"{name}-node-0-{rank}", "labels": labels}
            self.core.create_namespaced_pod(NAMESPACE, {"metadata": metadata, "spec": spec})
            self._phase(metadata["name"], "Running")
            self.kubelet.logs[metadata["name"]] = f"node {rank} has started\n"
        return [f"{name}-node-0-{rank}" for rank in range(trainer["numNodes"])]

    def _phase(self, pod: str, phase: str) -> None:
        self.core.patch_namespaced_pod_status(pod, NAMESPACE, {"status": {"phase": phase}})

    def end(self, job: dict[str, Any], condition: str) -> None:
        """Give the job its last condition: Complete or Failed."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        said = {
            "type": condition,
            "status": "True",
            "reason": condition,
            "message": "by hand",
            "lastTransitionTime": now,
        }
        name = job["metadata"]["name"]
        self.api.patch_namespaced_custom_object_status(*PLACE, name, {"status": {"conditions": [said]}})

    def leave_results(self, job: dict[str, Any], metrics: dict[str, float]) -> None:
        """What the first process of a job leaves: its output and its metrics."""
        folder = self.folder(job)
        made = folder / "outputs" / "tuned_model"
        made.mkdir(parents=True)
        (made / "unet").write_text("weights")
        (folder / "metrics.json").write_text(json.dumps(metrics))

    def remove_all(self) -> None:
        for job in self.jobs():
            self.api.delete_namespaced_custom_object(*PLACE, job["metadata"]["name"])
