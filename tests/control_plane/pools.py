"""The node pools that docs/gke.md makes, as Nodes without a machine behind them: GKE's labels, taints and allocatable.

Read from the page's own commands, so that placements, queues and page are held together by the scheduler.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from kubernetes import client

PAGE = Path(__file__).resolve().parents[2] / "docs" / "gke.md"
DEFAULT_POOL = "default-pool"
MACHINES = {
    "e2-standard-8": (8, 32),
    "g2-standard-8": (8, 32),
    "a2-ultragpu-8g": (96, 1360),
    "a3-highgpu-8g": (208, 1872),
}
"""Cores and GiB of memory. Source: cloud.google.com/compute/docs/machine-resource."""

GPU = "nvidia.com/gpu"
KEPT_CORES = ((1, 0.06), (1, 0.01), (2, 0.005), (float("inf"), 0.0025))
KEPT_GIB = ((4, 0.25), (4, 0.2), (8, 0.1), (112, 0.06), (float("inf"), 0.02))
EVICTION_GIB = 0.1
"""What GKE keeps of a node, in slices of its size: cloud.google.com/kubernetes-engine/docs/concepts/plan-node-sizes."""


@dataclass(frozen=True)
class Pool:
    """One pool of the page: `gpus` of one machine, and the most machines that it may have."""

    name: str
    machine: str
    gpus: int
    nodes: int
    labels: dict[str, str]
    taints: tuple[tuple[str, str, str], ...]

    def node(self, number: int = 0) -> client.V1Node:
        """A Node as a fresh machine of the pool registers itself."""
        cores, gib = MACHINES[self.machine]
        allocatable = {
            "cpu": f"{round(1000 * (cores - _kept(cores, KEPT_CORES)))}m",
            "memory": f"{round(1024 * (gib - _kept(gib, KEPT_GIB) - EVICTION_GIB))}Mi",
            "pods": "110",
        }
        if self.gpus:
            allocatable[GPU] = str(self.gpus)
        return client.V1Node(
            metadata=client.V1ObjectMeta(name=f"{self.name}-{number}", labels=self.labels),
            spec=client.V1NodeSpec(
                taints=[client.V1Taint(key=key, value=value, effect=effect) for key, value, effect in self.taints]
            ),
            status=client.V1NodeStatus(
                capacity=allocatable,
                allocatable=allocatable,
                conditions=[client.V1NodeCondition(type="Ready", status="True", reason="Fake", message="")],
            ),
        )


def _kept(size: float, slices: tuple[tuple[float, float], ...]) -> float:
    kept = 0.0
    for width, share in slices:
        kept += share * min(size, width)
        size = max(0.0, size - width)
    return kept


def pools() -> dict[str, Pool]:
    """The pools of the page by name, with the one that comes with the cluster."""
    text = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    found = {}
    for line in re.findall(r"^gcloud container (?:node-pools|clusters) create .*$", text, flags=re.MULTILINE):
        words = shlex.split(line)
        name = words[4] if words[2] == "node-pools" else DEFAULT_POOL
        found[name] = _pool(name, words[5:])
    return found


def _pool(name: str, options: list[str]) -> Pool:
    machine = options[options.index("--machine-type") + 1]
    labels = {"cloud.google.com/gke-nodepool": name, "node.kubernetes.io/instance-type": machine}
    taints = []
    gpus = 0
    if "--accelerator" in options:
        said = dict(part.split("=") for part in options[options.index("--accelerator") + 1].split(","))
        gpus = int(said["count"])
        labels["cloud.google.com/gke-accelerator"] = said["type"]
        taints.append((GPU, "present", "NoSchedule"))
    sizes = ("--total-max-nodes", "--max-nodes", "--num-nodes")
    nodes = next(int(options[options.index(name) + 1]) for name in sizes if name in options)
    if "--spot" in options:
        labels["cloud.google.com/gke-spot"] = "true"
    if "--flex-start" in options:
        labels["cloud.google.com/gke-flex-start"] = "true"
    if "--enable-queued-provisioning" in options:
        taints.append(("cloud.google.com/gke-queued", "true", "NoSchedule"))
    if "--node-taints" in options:
        for taint in options[options.index("--node-taints") + 1].split(","):
            key, value, effect = re.fullmatch(r"(.+)=(.+):(.+)", taint).groups()  # type: ignore[union-attr]
            taints.append((key, value, effect))
    return Pool(name, machine, gpus, nodes, labels, tuple(taints))
