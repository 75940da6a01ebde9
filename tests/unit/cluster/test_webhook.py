"""The webhook against a real HTTP server: delivered once, tried again, given up, and never the cause of a failure."""

import json
import logging
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from unifl.cluster.webhook import NO_WEBHOOK, SENT, URL_VARIABLE, post_to_webhook

SECRET = "T0KEN-in-the-path"
MESSAGE = {"run": "ab177376", "status": "FAILED", "failed_step": "quality_gate", "metrics": {"kid": 0.02}}


class Receiver:
    """A server that answers with `answers` one after the other (the last one for ever) and keeps what it was sent."""

    def __init__(self, *answers: int) -> None:
        self.received: list[tuple[str, str, bytes]] = []
        self.times: list[float] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.times.append(time.monotonic())
                receiver.received.append((self.path, self.headers["Content-Type"], body))
                self.send_response(answers[min(len(receiver.received), len(answers)) - 1])
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/{SECRET}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def receiver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    server = Receiver(*request.param)
    monkeypatch.setenv(URL_VARIABLE, server.url)
    yield server
    server.close()


@pytest.mark.parametrize("receiver", [(204,)], indirect=True)
def test_a_message_is_posted_once_as_json(receiver: Receiver) -> None:
    assert post_to_webhook(MESSAGE) == SENT
    ((path, kind, body),) = receiver.received
    assert (path, kind, json.loads(body)) == (f"/{SECRET}", "application/json", MESSAGE)


@pytest.mark.parametrize("receiver", [(503, 500, 200)], indirect=True)
def test_a_server_that_fails_twice_gets_the_same_message_a_third_time(receiver: Receiver) -> None:
    assert post_to_webhook(MESSAGE, wait_factor_seconds=0.01) == SENT
    assert [json.loads(body) for _, _, body in receiver.received] == [MESSAGE] * 3


@pytest.mark.parametrize("receiver", [(503,)], indirect=True)
def test_a_server_that_never_recovers_is_given_up_and_named(receiver: Receiver) -> None:
    told = post_to_webhook(MESSAGE, retries=2, wait_factor_seconds=0.01)
    assert len(receiver.received) == 3
    assert told == ("the webhook at 127.0.0.1 did not take the message after 3 attempts: too many 503 error responses")


@pytest.mark.parametrize("receiver", [(403,), (302,)], indirect=True)
def test_a_refusal_is_final_and_fails_nothing(receiver: Receiver) -> None:
    told = post_to_webhook(MESSAGE, wait_factor_seconds=0.01)
    assert len(receiver.received) == 1
    assert told.startswith("the webhook at 127.0.0.1 ")


@pytest.mark.parametrize("receiver", [(503,)], indirect=True)
def test_waits_grow_from_attempt_to_attempt(receiver: Receiver) -> None:
    post_to_webhook(MESSAGE, retries=3, wait_factor_seconds=0.1)
    waits = [after - before for before, after in zip(receiver.times, receiver.times[1:], strict=False)]
    assert waits[1] > 0.19
    assert waits[2] > 0.39


@pytest.mark.parametrize("receiver", [(503,)], indirect=True)
def test_neither_answer_nor_log_holds_the_address_s_secret(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    told = [post_to_webhook(MESSAGE, retries=1, wait_factor_seconds=0.01)]
    receiver.close()
    told.append(post_to_webhook(MESSAGE, retries=1, wait_factor_seconds=0.01))
    assert all("the webhook at 127.0.0.1" in line for line in told)
    assert SECRET not in caplog.text + "".join(told)


@pytest.mark.parametrize("url", ["not an address", "file:///etc/passwd", "https://", "http://[broken"])
def test_what_is_no_http_address_is_told_without_repeating_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(URL_VARIABLE, url)
    assert post_to_webhook(MESSAGE) == f"{URL_VARIABLE} holds no http address"


@pytest.mark.parametrize("url", ["", "  "])
def test_without_an_address_nothing_is_posted(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(URL_VARIABLE, url)
    assert post_to_webhook(MESSAGE) == NO_WEBHOOK
