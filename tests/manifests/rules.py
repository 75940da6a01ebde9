"""The rules that the manifests keep: each takes all resources of an overlay and names what breaks it; empty is good."""

import re
from collections.abc import Iterator
from typing import Any

from tests.manifests.overlay import Resource, called, containers, find, of_kind, pod_templates

BY_DIGEST = re.compile(r"[^@:]+(:[0-9]+)?[^@:]*@sha256:[0-9a-f]{64}")
TRAINER, PUBLISHER = "unifl-pipeline", "unifl-publisher"
MAY_GO_OUT = {"preflight", "resolve_data", "run_summary"}
PRIVATE = {"10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"}
HTTPS = {"protocol": "TCP", "port": 443}


def pods_that_could_gain_rights(resources: list[Resource]) -> list[str]:
    """Every container runs as another than root, on a read-only root file system, without capabilities."""
    faults = []
    for where, template in pod_templates(resources):
        pod = template["spec"].get("securityContext", {})
        if pod.get("runAsNonRoot") is not True or not pod.get("runAsUser"):
            faults.append(f"{where} may run as root")
        if pod.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            faults.append(f"{where} has no seccomp profile")
        if template["spec"].get("automountServiceAccountToken") is not False:
            faults.append(f"{where} mounts a token of the Kubernetes API")
        for container in containers(template):
            own = container.get("securityContext", {})
            name = f"{where}/{container['name']}"
            if own.get("runAsNonRoot") is False or own.get("runAsUser") == 0 or own.get("privileged"):
                faults.append(f"{name} may run as root")
            if own.get("readOnlyRootFilesystem") is not True:
                faults.append(f"{name} may write to its root file system")
            if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities") != {"drop": ["ALL"]}:
                faults.append(f"{name} may gain rights")
    return faults


def containers_without_limits(resources: list[Resource]) -> list[str]:
    """Every container says what it needs and what it may take; a GPU is asked for as it is limited."""
    faults = []
    for where, template in pod_templates(resources):
        for container in containers(template):
            given = container.get("resources", {})
            for part in ("requests", "limits"):
                missing = {"cpu", "memory"} - set(given.get(part, {}))
                faults += [f"{where}/{container['name']} has no {name} in {part}" for name in sorted(missing)]
            if given.get("requests", {}).get("nvidia.com/gpu") != given.get("limits", {}).get("nvidia.com/gpu"):
                faults.append(f"{where}/{container['name']} asks for other GPUs than it may take")
    return faults


def images_without_digest(resources: list[Resource]) -> list[str]:
    return [
        f"{where}/{container['name']}: {container['image']}"
        for where, template in pod_templates(resources)
        for container in containers(template)
        if not BY_DIGEST.fullmatch(container["image"])
    ]


def values_that_should_be_secret(resources: list[Resource]) -> list[str]:
    """No resource holds a secret, and no variable that is called like one holds a value."""
    faults = [called(secret) for secret in of_kind(resources, "Secret")]
    telling = re.compile(r"(?i)(secret|token|passw|credential|(api|access|private)_?key)")
    for where, template in pod_templates(resources):
        for container in containers(template):
            faults += [
                f"{where}/{container['name']}: {variable['name']}"
                for variable in container.get("env", [])
                if "value" in variable and telling.search(variable["name"])
            ]
    for config in of_kind(resources, "ConfigMap"):
        faults += [f"{called(config)}: {key}" for key in config.get("data", {}) if telling.search(key)]
    return faults


def rights_that_are_too_wide(resources: list[Resource], secrets: frozenset[str] = frozenset()) -> list[str]:
    """No wildcard, nothing cluster-wide but to read a named training runtime, nothing that starts or enters pods or
    hands out rights, no secret but those named."""
    narrow = {role["metadata"]["name"] for role in of_kind(resources, "ClusterRole") if _reads_named_runtimes(role)}
    faults = [called(role) for role in of_kind(resources, "ClusterRole") if role["metadata"]["name"] not in narrow]
    faults += [
        called(binding)
        for binding in of_kind(resources, "ClusterRoleBinding")
        if binding["roleRef"]["name"] not in narrow or {s["name"] for s in binding["subjects"]} != {TRAINER}
    ]
    forbidden = {"pods", "pods/exec", "serviceaccounts", "serviceaccounts/token", "roles", "rolebindings", "workflows"}
    for role in of_kind(resources, "Role"):
        for rule in role["rules"]:
            asked = [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            if any("*" in entry for entry in asked):
                faults.append(f"{called(role)} has a wildcard")
            if set(rule["verbs"]) & {"escalate", "bind", "impersonate", "deletecollection"}:
                faults.append(f"{called(role)} hands out rights")
            reads = {"pods"} if set(rule["verbs"]) <= {"get", "list", "watch"} else set()
            reached = forbidden & set(rule["resources"]) - reads
            faults += [f"{called(role)} reaches {entry}" for entry in sorted(reached)]
            named = rule.get("resourceNames", [])
            if "secrets" in rule["resources"] and (not named or set(named) - secrets or rule["verbs"] != ["get"]):
                faults.append(f"{called(role)} reads secrets")
            if "configmaps" in rule["resources"] and not named:
                faults.append(f"{called(role)} reads every config map")
    return faults


def _reads_named_runtimes(role: Resource) -> bool:
    return all(
        rule["resources"] == ["clustertrainingruntimes"] and rule["verbs"] == ["get"] and rule.get("resourceNames")
        for rule in role["rules"]
    )


def shared_identities(resources: list[Resource]) -> list[str]:
    """Trainer, publisher and report server are different accounts, here and in the cloud; a role has one bearer."""
    faults = []
    accounts = {entry["metadata"]["name"]: entry for entry in of_kind(resources, "ServiceAccount")}
    faults += [f"there is no {name}" for name in (TRAINER, PUBLISHER) if name not in accounts]
    clouds: dict[str, str] = {}
    for name, account in accounts.items():
        cloud = account["metadata"].get("annotations", {}).get("iam.gke.io/gcp-service-account")
        if cloud is not None and cloud in clouds:
            faults.append(f"{name} and {clouds[cloud]} are one in the cloud: {cloud}")
        clouds[cloud] = name
    for binding in of_kind(resources, "RoleBinding"):
        subjects = {subject["name"] for subject in binding["subjects"]}
        if binding["roleRef"]["name"] in (TRAINER, PUBLISHER) and subjects != {binding["roleRef"]["name"]}:
            faults.append(f"{called(binding)} binds {', '.join(sorted(subjects))}")
    for where, template in pod_templates(resources):
        if template["spec"].get("serviceAccountName", "default") in ("default", PUBLISHER):
            faults.append(f"{where} runs as {template['spec'].get('serviceAccountName', 'default')}")
    return faults


def openings_of_the_network(resources: list[Resource]) -> list[str]:
    """Everything is denied first; nothing is opened to everybody, every opening to the outside names a port, and the
    internet is open to none but the tasks that need it."""
    policies = of_kind(resources, "NetworkPolicy")
    closed = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    faults = [] if any(policy["spec"] == closed for policy in policies) else ["nothing is denied by default"]
    for policy in policies:
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            for rule in policy["spec"].get(direction, []):
                blocks = [peer["ipBlock"]["cidr"] for peer in rule.get(peers, []) if "ipBlock" in peer]
                if not rule.get(peers) or {} in rule[peers]:
                    faults.append(f"{called(policy)} opens {direction} to everybody")
                wide = [block for block in blocks if int(block.split("/")[1]) < 16]
                if direction == "ingress" or not tasks_let_out(policy, rule) <= MAY_GO_OUT:
                    faults += [f"{called(policy)} opens {block}" for block in wide]
                outside = blocks or any("namespaceSelector" in peer for peer in rule.get(peers, []))
                if outside and not rule.get("ports"):
                    faults.append(f"{called(policy)} opens every port")
    return faults


def tasks_let_out(policy: Resource, rule: Resource) -> set[str]:
    """The tasks that a rule lets out to public addresses by HTTPS; "*" when it lets out more than that."""
    blocks = [peer["ipBlock"] for peer in rule.get("to", []) if "ipBlock" in peer]
    only_public = (
        bool(blocks)
        and len(blocks) == len(rule["to"])
        and all(set(block.get("except", [])) >= PRIVATE for block in blocks)
    )
    selector = policy["spec"]["podSelector"]
    chosen = selector.get("matchExpressions", [])
    by_task = len(chosen) == 1 and "matchLabels" not in selector and chosen[0]["key"] == "unifl/step"
    if not only_public or not by_task or chosen[0]["operator"] != "In" or rule.get("ports") != [HTTPS]:
        return {"*"}
    return set(chosen[0]["values"])


def gpus_beyond_the_quota(resources: list[Resource]) -> list[str]:
    """The namespace's quota names GPUs, and it is the sum of what the queue can give."""
    quota = find(resources, "ResourceQuota", "unifl")["spec"]["hard"].get("requests.nvidia.com/gpu")
    queue = find(resources, "ClusterQueue", "unifl")
    given = sum(
        int(resource["nominalQuota"])
        for group in queue["spec"]["resourceGroups"]
        for flavor in group["flavors"]
        for resource in flavor["resources"]
        if resource["name"] == "nvidia.com/gpu"
    )
    return [] if quota == str(given) else [f"the queue gives {given} GPUs, the quota allows {quota}"]


def quantities_that_are_numbers(resources: list[Resource]) -> list[str]:
    """Quantities are strings: `1` would pass kubectl but not the models of the Python client."""
    places = ("hard", "requests", "limits", "default", "defaultRequest", "max")

    def numbers(value: Any, path: str) -> Iterator[str]:
        if isinstance(value, list):
            for index, entry in enumerate(value):
                yield from numbers(entry, f"{path}[{index}]")
        elif isinstance(value, dict):
            for key, entry in value.items():
                if key in places and isinstance(entry, dict):
                    yield from (f"{path}.{key}.{name}" for name, amount in entry.items() if not isinstance(amount, str))
                if key in ("nominalQuota", "sizeLimit", "storage") and not isinstance(entry, str):
                    yield f"{path}.{key}"
                yield from numbers(entry, f"{path}.{key}")

    return [fault for resource in resources for fault in numbers(resource.get("spec", {}), called(resource))]


def names_without_a_bearer(resources: list[Resource]) -> list[str]:
    """Whatever is referred to by name is in the overlay too."""
    names = {(entry["kind"], entry["metadata"]["name"]) for entry in resources}
    return [f"{where} names {kind} {name}" for where, kind, name in references(resources) if (kind, name) not in names]


def references(resources: list[Resource]) -> Iterator[tuple[str, str, str]]:
    """(where, kind, name) of every reference by name."""
    for where, template in pod_templates(resources):
        yield where, "ServiceAccount", template["spec"]["serviceAccountName"]
        for volume in template["spec"].get("volumes", []):
            if claim := volume.get("persistentVolumeClaim"):
                yield where, "PersistentVolumeClaim", claim["claimName"]
            if config := volume.get("configMap"):
                yield where, "ConfigMap", config["name"]
    for resource in resources:
        where, spec = called(resource), resource.get("spec", {})
        if resource["kind"] == "RoleBinding":
            yield where, resource["roleRef"]["kind"], resource["roleRef"]["name"]
            yield from ((where, subject["kind"], subject["name"]) for subject in resource["subjects"])
        elif resource["kind"] == "LocalQueue":
            yield where, "ClusterQueue", spec["clusterQueue"]
        elif resource["kind"] == "ClusterQueue":
            yield where, "Namespace", spec["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
            flavors = [flavor["name"] for group in spec["resourceGroups"] for flavor in group["flavors"]]
            for check in spec.get("admissionChecksStrategy", {}).get("admissionChecks", []):
                yield where, "AdmissionCheck", check["name"]
                flavors += check.get("onFlavors", [])
            yield from ((where, "ResourceFlavor", flavor) for flavor in flavors)
        elif resource["kind"] == "AdmissionCheck":
            yield where, spec["parameters"]["kind"], spec["parameters"]["name"]
        elif resource["kind"] == "ValidatingAdmissionPolicyBinding":
            yield where, "ValidatingAdmissionPolicy", spec["policyName"]
