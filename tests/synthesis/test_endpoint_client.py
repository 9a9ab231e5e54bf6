"""A model at the end of a wire: a small server on this machine that behaves, or does not."""

from __future__ import annotations

import csv
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lmmodules.composition import compose_config
from lmmodules.data.math_courses import COLUMNS
from lmmodules.errors import InputError
from lmmodules.evaluation import course_programs
from lmmodules.evaluation.sandbox import Execution
from lmmodules.solve import solve
from lmmodules.synthesis import Decoding, EndpointClient
from lmmodules.synthesis import endpoint_client as module

KEY = "sk-secret-0123"
Answer = tuple[int, bytes, dict[str, str]]


@dataclass
class Server:
    """Answers each request by the next of `answers`, the last of them for ever."""

    url: str = ""
    answers: list[Answer] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    slow_seconds: float = 0.0
    at_once: int = 0
    most_at_once: int = 0


def completion(text: str) -> Answer:
    return 200, json.dumps({"choices": [{"text": text}]}).encode(), {}


def reply(text: str) -> Answer:
    return 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode(), {}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    state = Server()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                state.requests.append({"path": self.path, "body": body, "key": self.headers.get("Authorization")})
                state.at_once += 1
                state.most_at_once = max(state.most_at_once, state.at_once)
                status, content, headers = state.answers.pop(0) if len(state.answers) > 1 else state.answers[0]
            time.sleep(state.slow_seconds)
            with lock:
                state.at_once -= 1
            try:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
            except OSError:  # nobody waits any more
                pass

        def log_message(self, *arguments: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}/v1"
    yield state
    http.shutdown()
    http.server_close()
    thread.join(5)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the client would have waited; it does not."""
    waited: list[float] = []
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=waited.append, monotonic=time.monotonic))
    return waited


@pytest.fixture
def client(server: Server, tmp_path: Path) -> Callable[..., EndpointClient]:
    return lambda **options: EndpointClient(server.url, "tiny", **{"cache": tmp_path / "cache", **options})


GREEDY = Decoding(max_new_tokens=9, stop=("\n\n",))


def test_a_completion(server: Server, client: Callable[..., EndpointClient]) -> None:
    server.answers = [completion("print(1)\n\nand more")]
    assert client().complete(["Q"], GREEDY) == ["print(1)"]
    [request] = server.requests
    assert request["path"] == "/v1/completions"
    assert request["body"] == {"model": "tiny", "prompt": "Q", "max_tokens": 9, "temperature": 0.0, "stop": ["\n\n"]}
    assert request["key"] is None


def test_a_chat(server: Server, client: Callable[..., EndpointClient], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", f"{KEY}\n")
    server.answers = [reply("print(2)")]
    chat = client(chat=True, key_variable="MY_KEY")
    assert chat.complete(["Q"], Decoding(temperature=0.5, top_p=0.9, seed=3)) == ["print(2)"]
    [request] = server.requests
    assert request["path"] == "/v1/chat/completions"
    assert request["key"] == f"Bearer {KEY}"
    assert request["body"] == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Q"}],
        "max_tokens": 256,
        "temperature": 0.5,
        "seed": 3,
        "top_p": 0.9,
    }
    assert (chat.prompt_style, client().prompt_style) == ("instruction", "docstring")


def test_a_server_takes_four_stops(server: Server, client: Callable[..., EndpointClient]) -> None:
    server.answers = [completion("abcdef")]
    assert client().complete(["Q"], Decoding(stop=("v", "w", "x", "y", "e"))) == ["abcd"]
    assert server.requests[0]["body"]["stop"] == ["v", "w", "x", "y"]


def test_what_was_asked_is_not_asked_again(server: Server, client: Callable[..., EndpointClient]) -> None:
    server.answers = [completion("one")]
    assert client().complete(["Q", "Q"], GREEDY) == ["one", "one"]
    server.answers = [completion("two")]
    assert client().complete(["Q"], GREEDY) == ["one"]
    assert len(server.requests) == 1
    assert client().complete(["Q"], Decoding(max_new_tokens=8)) == ["two"]
    assert client().complete(["R"], GREEDY) == ["two"]
    assert len(server.requests) == 3


def test_a_damaged_cache_is_asked_over(server: Server, client: Callable[..., EndpointClient], tmp_path: Path) -> None:
    server.answers = [completion("one")]
    client().complete(["Q"], GREEDY)
    [file] = (tmp_path / "cache").rglob("*.json")
    file.write_text('{"te')
    assert client().complete(["Q"], GREEDY) == ["one"]
    assert len(server.requests) == 2


@pytest.mark.parametrize("trouble", [429, 500, 503])
def test_trouble_is_waited_out(
    trouble: int, server: Server, client: Callable[..., EndpointClient], waits: list[float]
) -> None:
    server.answers = [(trouble, b"", {}), (trouble, b"", {}), completion("at last")]
    assert client().complete(["Q"], GREEDY) == ["at last"]
    assert waits == [1.0, 2.0]
    assert len(server.requests) == 3


def test_the_server_says_how_long(server: Server, client: Callable[..., EndpointClient], waits: list[float]) -> None:
    server.answers = [
        (429, b"", {"Retry-After": "7"}),
        (429, b"", {"Retry-After": "9999"}),
        (429, b"", {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
        completion("at last"),
    ]
    assert client(wait_seconds=0.5).complete(["Q"], GREEDY) == ["at last"]
    assert waits == [7.0, 60.0, 2.0]


NONSENSE = {
    "no JSON": b"<html>",
    "nothing": b"",
    "no choices": b'{"choices": []}',
    "no text": b'{"choices": [{"text": null}]}',
    "a list": b"[1]",
    "no UTF-8": b"\xff\xfe",
}


@pytest.mark.parametrize("case", NONSENSE)
def test_nonsense_is_asked_again_and_then_told(
    case: str, server: Server, client: Callable[..., EndpointClient], waits: list[float], tmp_path: Path
) -> None:
    server.answers = [(200, NONSENSE[case], {})]
    with pytest.raises(InputError) as caught:
        client(attempts=3).complete(["Q"], GREEDY)
    assert str(caught.value) == (
        f"`{server.url}/completions` gave no completion in 3 attempts (what it answers is no completion); see whether "
        "the server runs, or name another by `language_model.url=...`"
    )
    assert len(server.requests) == 3
    assert not list((tmp_path / "cache").rglob("*.json"))


def test_a_server_that_is_down(server: Server, waits: list[float], tmp_path: Path) -> None:
    nobody = EndpointClient("http://127.0.0.1:9/v1", "tiny", attempts=4, cache=tmp_path)
    with pytest.raises(InputError, match=r"gave no completion in 4 attempts \(.*refused"):
        nobody.complete(["Q"], GREEDY)
    assert waits == [1.0, 2.0, 4.0]


def test_a_slow_server(server: Server, client: Callable[..., EndpointClient]) -> None:
    server.answers = [completion("too late")]
    server.slow_seconds = 1.0
    with pytest.raises(InputError, match=r"in 2 attempts \(no answer within 0.1 seconds\)"):
        client(attempts=2, timeout_seconds=0.1, wait_seconds=0.01).complete(["Q"], GREEDY)
    assert len(server.requests) == 2


def test_a_refusal_is_told_at_once_and_without_the_key(
    server: Server, client: Callable[..., EndpointClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.answers = [(401, json.dumps({"error": {"message": f"bad key {KEY}"}}).encode(), {})]
    with pytest.raises(InputError) as caught:
        client().complete(["Q"], GREEDY)
    assert str(caught.value) == f"`{server.url}/completions` refused the request: HTTP 401 (bad key ...)"
    assert len(server.requests) == 1


def test_the_key_is_written_nowhere(
    server: Server,
    client: Callable[..., EndpointClient],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.answers = [completion("one")]
    asking = client()
    asking.complete(["Q"], GREEDY)
    assert server.requests[0]["key"] == f"Bearer {KEY}"
    written = "".join(file.read_text() for file in tmp_path.rglob("*.json"))
    assert '"one"' in written
    output = capfd.readouterr()
    assert not [text for text in (written, caplog.text, output.out, output.err, asking.name) if KEY in text]
    monkeypatch.setenv("OPENAI_API_KEY", "sk\nsecret")
    with pytest.raises(InputError) as caught:
        asking.complete(["R"], GREEDY)
    assert "`OPENAI_API_KEY` must hold a key of plain letters and signs" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_redirection_is_not_followed(server: Server, client: Callable[..., EndpointClient]) -> None:
    server.answers = [(302, b"", {"Location": f"{server.url}/elsewhere"})]
    with pytest.raises(InputError, match="refused the request: HTTP 302"):
        client().complete(["Q"], GREEDY)
    assert len(server.requests) == 1


def test_no_more_at_a_time_than_allowed(server: Server, client: Callable[..., EndpointClient]) -> None:
    server.answers = [completion("x")]
    server.slow_seconds = 0.05
    asking = client(concurrency=2)
    assert asking.batch_size == 2
    asking.complete([str(number) for number in range(6)], GREEDY)
    assert (len(server.requests), server.most_at_once) == (6, 2)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"url": "localhost:8000"}, "`url` must begin with http:// or https://"),
        ({"url": "file:///etc/passwd"}, "`url` must begin with http:// or https://"),
        ({"attempts": 0}, "`attempts` must be positive, but is 0; use `language_model.attempts=1`"),
        ({"timeout_seconds": -1}, "`timeout_seconds` must be positive"),
        ({"concurrency": 0}, "`concurrency` must be positive"),
        ({"wait_seconds": 0}, "`wait_seconds` must be positive"),
    ],
)
def test_refusals(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        EndpointClient(**{"url": "http://127.0.0.1/v1", "model": "m", **options})


def test_a_resumed_evaluation_with_published_examples_does_not_ask_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers = [completion("print(0)")]
    rows = [(number, f"What is {number} plus {number}?", f"print({2 * number})", 2 * number) for number in range(1, 4)]
    with (tmp_path / "7.01.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([number, text, "", program, answer, "Zero-shot"] for number, text, program, answer in rows)

    def evaluate(cache: str) -> dict[str, Any]:  # another cache each time: the journal alone remembers
        shape = ("language_model=endpoint", f"language_model.url={server.url}", "language_model.model=m")
        places = (
            f"course={tmp_path / '7.01.csv'}",
            f"output={tmp_path / 'out'}",
            f"language_model.cache={tmp_path / cache}",
        )
        return solve(compose_config("solve", *shape, *places, "examples=published"))

    figures = evaluate("first")
    assert len(server.requests) == 6  # each by itself, and behind the other two
    # A program that draws at random would be right at one time and wrong at another.
    failed = Execution("failed", "", "", 0.0)
    monkeypatch.setattr(course_programs, "run_programs", lambda programs, *_, **__: [failed for _ in programs])
    assert evaluate("second") == figures
    assert len(server.requests) == 6
