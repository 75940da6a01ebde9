"""Where the artifacts of a past run lie, behind one small interface, because servers differ in how they tell it.

Kubeflow Pipelines 2 has fields for it in a run's task details and leaves them empty
(https://github.com/kubeflow/pipelines/issues/9858); the addresses stand in its metadata store (ML Metadata), which the
user interface's address answers for. Kubeflow Pipelines 3 drops that store. A file that the user writes works with
every server.
"""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import yaml

from pipelines.cluster_client import Cluster
from pipelines.compiling import dag_tasks
from pipelines.dag import IMPORTED
from unifl.core.errors import ClusterError, NotFoundError, SettingsError

TaskOutputs = dict[str, dict[str, str]]
"""Name of a task -> name of its output -> address."""

SERVICE = "/ml_metadata.MetadataStoreService"
RUN_CONTEXT = "system.PipelineRun"
COMPLETE, CACHED = 3, 5
"""States of an execution that has outputs (ml_metadata's Execution.State)."""
OUTPUT = 4
"""ml_metadata's Event.Type of what an execution wrote."""

_STRING, _NUMBER = "TYPE_STRING", "TYPE_INT64"
# The part of ml_metadata's messages that is needed: field -> (number, type, repeated). Its own package is a database.
_MESSAGES: dict[str, dict[str, tuple[int, str, bool]]] = {
    "Value": {"string_value": (3, _STRING, False)},
    "Property": {"key": (1, _STRING, False), "value": (2, "Value", False)},
    "Context": {"id": (1, _NUMBER, False)},
    "Execution": {
        "id": (1, _NUMBER, False),
        "last_known_state": (3, _NUMBER, False),
        "custom_properties": (5, "Property", True),
    },
    "Step": {"key": (2, _STRING, False)},
    "Path": {"steps": (1, "Step", True)},
    "Event": {
        "artifact_id": (1, _NUMBER, False),
        "execution_id": (2, _NUMBER, False),
        "path": (3, "Path", False),
        "type": (4, _NUMBER, False),
    },
    "Artifact": {"id": (1, _NUMBER, False), "uri": (3, _STRING, False)},
    "ContextRequest": {"type_name": (1, _STRING, False), "context_name": (2, _STRING, False)},
    "ContextResponse": {"context": (1, "Context", False)},
    "ExecutionsRequest": {"context_id": (1, _NUMBER, False)},
    "ExecutionsResponse": {"executions": (1, "Execution", True)},
    "EventsRequest": {"execution_ids": (1, _NUMBER, True)},
    "EventsResponse": {"events": (1, "Event", True)},
    "ArtifactsRequest": {"artifact_ids": (1, _NUMBER, True)},
    "ArtifactsResponse": {"artifacts": (1, "Artifact", True)},
}


class PastArtifacts(Protocol):
    """A source of addresses."""

    def outputs(self, run_id: str) -> TaskOutputs:
        """What every finished task of a run wrote, by the task's name in the compiled pipeline."""
        ...


class MetadataStore:
    """The metadata store of Kubeflow Pipelines 2, asked as the user interface asks it (gRPC-Web)."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._messages = _message_classes()

    def outputs(self, run_id: str) -> TaskOutputs:
        """See PastArtifacts. Raises NotFoundError for a run that the store has not seen, ClusterError when there is no
        store at this address."""
        found = self._ask("GetContextByTypeAndName", "Context", type_name=RUN_CONTEXT, context_name=run_id)
        if not found.HasField("context"):
            raise NotFoundError(f"the metadata store has nothing of run {run_id}", remedy="give --artifacts FILE")
        executions = self._ask("GetExecutionsByContext", "Executions", context_id=found.context.id).executions
        finished = {each.id: _task_name(each) for each in executions if each.last_known_state in (COMPLETE, CACHED)}
        events = self._ask("GetEventsByExecutionIDs", "Events", execution_ids=list(finished)).events
        written = [event for event in events if event.type == OUTPUT]
        wanted = sorted({event.artifact_id for event in written})
        artifacts = self._ask("GetArtifactsByID", "Artifacts", artifact_ids=wanted).artifacts
        uris = {artifact.id: artifact.uri for artifact in artifacts}
        outputs: TaskOutputs = {}
        for event in written:
            name = next((step.key for step in event.path.steps if step.key), IMPORTED)
            outputs.setdefault(finished[event.execution_id], {})[name] = uris[event.artifact_id]
        return outputs

    def _ask(self, method: str, kind: str, **request: Any) -> Any:
        body = self._messages[f"{kind}Request"](**request).SerializeToString()
        try:
            with self._cluster.errors():
                answer = self._cluster.api.call_api(
                    f"{SERVICE}/{method}",
                    "POST",
                    header_params={"Content-Type": "application/grpc-web+proto", "X-Grpc-Web": "1"},
                    body=struct.pack(">BI", 0, len(body)) + body,
                    auth_settings=["Bearer"],
                    _preload_content=False,
                    _return_http_data_only=True,
                )
            return self._messages[f"{kind}Response"].FromString(_unframed(bytes(answer.data)))
        except (ClusterError, ValueError) as error:
            said = error.message if isinstance(error, ClusterError) else error
            raise ClusterError(
                f"no metadata store answers at this address: {said}",
                remedy="give the address of the user interface (svc/ml-pipeline-ui), or the artifacts' addresses with "
                "--artifacts FILE",
            ) from error


class AddressFile:
    """Addresses from a YAML file: `STEP: {OUTPUT: ADDRESS}`, copied from the user interface or from a bucket's list."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def outputs(self, run_id: str) -> TaskOutputs:
        """See PastArtifacts; the names are those of the DAG. Raises SettingsError for another form."""
        try:
            content = yaml.safe_load(self._file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise SettingsError(f"the addresses can't be read: {error}", file=self._file) from error
        if not _is_two_levels(content):
            raise SettingsError(
                "these are no addresses", file=self._file, expected="STEP: {OUTPUT: ADDRESS}, all of them text"
            )
        return {step: dict(outputs) for step, outputs in content.items()}


def by_dag_names(outputs: TaskOutputs, spec: Mapping[str, Any]) -> TaskOutputs:
    """`outputs` by the names of the DAG in the place of the compiled pipeline's; what a rerun imported counts as the
    output of the step that once made it."""
    tasks = dag_tasks(spec)
    named: TaskOutputs = {}
    for key, written in outputs.items():
        name = tasks.get(key, {}).get("taskInfo", {}).get("name", key)
        step, dot, output = name.partition(".")
        if dot and IMPORTED in written:
            named.setdefault(step, {})[output] = written[IMPORTED]
        else:
            named.setdefault(name, {}).update(written)
    return named


def _is_two_levels(content: Any) -> bool:
    return isinstance(content, dict) and all(
        isinstance(step, str)
        and isinstance(outputs, dict)
        and all(isinstance(part, str) for pair in outputs.items() for part in pair)
        for step, outputs in content.items()
    )


def _task_name(execution: Any) -> str:
    properties = {entry.key: entry.value.string_value for entry in execution.custom_properties}
    return str(properties.get("task_name", ""))


def _unframed(content: bytes) -> bytes:
    """The message of a gRPC-Web answer: frames of one flag byte, four bytes of length and content.

    Raises ValueError for anything else, and for a status that isn't OK.
    """
    message, rest = b"", content
    while rest:
        if len(rest) < 5:
            raise ValueError("the answer is cut off")
        flag, length = struct.unpack(">BI", rest[:5])
        frame, rest = rest[5 : 5 + length], rest[5 + length :]
        if flag & 0x80:
            trailer = dict(line.split(":", 1) for line in frame.decode().splitlines() if ":" in line)
            if trailer.get("grpc-status", "0").strip() != "0":
                raise ValueError(trailer.get("grpc-message", "the metadata store refuses").strip())
        elif flag == 0 and len(frame) == length:
            message = frame
        else:
            raise ValueError("this is not gRPC-Web")
    return message


def _message_classes() -> dict[str, Any]:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="past_artifacts.proto", package="past_artifacts", syntax="proto2")
    for message, fields in _MESSAGES.items():
        entry = file.message_type.add(name=message)
        for name, (number, kind, repeated) in fields.items():
            field = entry.field.add(name=name, number=number)
            field.label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            field.type = kinds.Type.Value(kind) if kind.startswith("TYPE_") else kinds.TYPE_MESSAGE
            if not kind.startswith("TYPE_"):
                field.type_name = f".past_artifacts.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"past_artifacts.{name}"))
        for name in _MESSAGES
    }
