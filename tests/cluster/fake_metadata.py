"""The metadata store of the fake server: four questions in gRPC-Web, encoded by hand from ml_metadata's numbers."""

import struct
from typing import Any

from pipelines.compiling import dag_tasks

CONTEXT_ID = 7
COMPLETE, CACHED, FAILED = 3, 5, 4
INPUT, OUTPUT = 3, 4


def answer_metadata(server: Any, method: str, body: bytes) -> bytes:
    """The framed answer to one question about the runs of `server`."""
    asked = _fields(body[5:])
    message = {
        "GetContextByTypeAndName": _context,
        "GetExecutionsByContext": _executions,
        "GetEventsByExecutionIDs": _events,
        "GetArtifactsByID": _artifacts,
    }[method](server, asked)
    trailer = b"grpc-status:0\r\ngrpc-message:OK\r\n"
    return struct.pack(">BI", 0, len(message)) + message + struct.pack(">BI", 0x80, len(trailer)) + trailer


def address(run_id: str, key: str, output: str) -> str:
    """Where a task of a run puts an output."""
    return f"gs://bucket/{run_id}/{key}/{output}"


def _context(server: Any, asked: dict[int, list[Any]]) -> bytes:
    run_id = asked[2][0].decode()
    if asked[1] != [b"system.PipelineRun"] or run_id not in server.runs:
        return b""
    return _field(1, _field(1, CONTEXT_ID + list(server.runs).index(run_id)))


def _executions(server: Any, asked: dict[int, list[Any]]) -> bytes:
    run = list(server.runs.values())[asked[1][0] - CONTEXT_ID]
    states = {detail.display_name: detail.state for detail in run.run_details.task_details}
    message = b""
    for key, task in server._in_order(run):
        if states[key] is None:
            continue
        name = task["taskInfo"]["name"]
        state = FAILED if states[key] == "FAILED" else CACHED if name in server.cached else COMPLETE
        text = _field(1, "task_name") + _field(2, _field(3, key))
        message += _field(1, _field(1, _identity(server, run, key)) + _field(3, state) + _field(5, text))
    return message


def _events(server: Any, asked: dict[int, list[Any]]) -> bytes:
    message = b""
    for number in asked.get(1, []):
        run, key = _found(server, number)
        for index, output in enumerate(_outputs(server, run, key)):
            path = _field(3, _field(1, _field(2, output)))
            message += _field(1, _field(1, number * 100 + index) + _field(2, number) + path + _field(4, OUTPUT))
        # What a task took is an event as well.
        message += _field(1, _field(1, 1) + _field(2, number) + _field(3, _field(1, _field(2, "x"))) + _field(4, INPUT))
    return message


def _artifacts(server: Any, asked: dict[int, list[Any]]) -> bytes:
    message = b""
    for number in asked.get(1, []):
        run, key = _found(server, number // 100)
        output = _outputs(server, run, key)[number % 100]
        importer = server.spec(run)["deploymentSpec"]["executors"].get(f"exec-{key}", {}).get("importer")
        uri = importer["artifactUri"]["constant"] if importer else address(run.run_id, key, output)
        message += _field(1, _field(1, number) + _field(3, uri))
    return message


def _identity(server: Any, run: Any, key: str) -> int:
    keys = [each for each, _ in server._in_order(run)]
    return 1000 * (1 + list(server.runs).index(run.run_id)) + keys.index(key)


def _found(server: Any, number: int) -> tuple[Any, str]:
    run = list(server.runs.values())[number // 1000 - 1]
    return run, server._in_order(run)[number % 1000][0]


def _outputs(server: Any, run: Any, key: str) -> list[str]:
    spec = server.spec(run)
    component = spec["components"][dag_tasks(spec)[key]["componentRef"]["name"]]
    return sorted(component["outputDefinitions"]["artifacts"])


def _field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = b""
    while value > 0x7F:
        encoded += bytes([value & 0x7F | 0x80])
        value >>= 7
    return encoded + bytes([value])


def _fields(message: bytes) -> dict[int, list[Any]]:
    fields: dict[int, list[Any]] = {}
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(message):
        tag = varint()
        if tag & 7 == 0:
            fields.setdefault(tag >> 3, []).append(varint())
        else:
            assert tag & 7 == 2
            length = varint()
            fields.setdefault(tag >> 3, []).append(message[position : position + length])
            position += length
    return fields
