"""The judge's endpoint: its key goes to one origin, is told nowhere, and no server makes a request last or grow."""

import gzip
import io
import json
import logging
import re
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from benchmark_fixtures import FIXTURES
from rich.console import Console
from task_rows import write_rows
from typer.testing import CliRunner

from evaluation.__main__ import app
from evaluation.config import EvaluationConfig, load_config
from evaluation.errors import EvaluationError
from evaluation.judge import completion
from evaluation.judge.endpoint import JudgeConfig, read_key
from evaluation.judge.judge import judge_rows
from evaluation.tasks import BENCHMARKS, Judge, Sample, ask
from unimoe.errors import ConfigError

JUDGE = Judge("Q {question} R {reference} A {prediction}", {"correct": 1})
KEY = "sk-live-0123456789abcdef"
GOOD = json.dumps({"choices": [{"message": {"content": '{"correct": 1, "score": 1}'}}]}).encode()


@contextmanager
def serving(answer):
    """A server on this machine whose handler is `answer`; its `requests` are path, headers and body of each."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            server.requests.append((self.path, dict(self.headers), body))
            answer(self)

        do_GET = do_CONNECT = do_POST

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.daemon_threads = [], True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def replying(status=200, content=GOOD, **headers):
    def answer(handler):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def address(server):
    return f"http://127.0.0.1:{server.server_port}/v1"


def grade(server, tmp_path, **changes):
    return judge_rows(
        JUDGE,
        JudgeConfig(
            **{
                "base_url": server and address(server),
                "model": "grader",
                "api_key": "JUDGE_KEY",
                "timeout": 20,
                **changes,
            }
        ),
        [Sample("1", ask("which?"), "red", ("red",), "1")],
        ["red"],
        path=tmp_path / "judged" / "colour.jsonl",
        overwrite=False,
        description="colour judged",
        console=Console(file=io.StringIO()),
    )


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setattr("evaluation.judge.judge._PAUSES", (0, 0, 0))
    monkeypatch.setenv("JUDGE_KEY", KEY)


def told(folder, *texts):
    """Whether the key stands in a file of a folder, or in texts."""
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    return any(KEY.encode() in content for content in (*files, *(text.encode() for text in texts)))


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
def test_no_redirect_carries_the_key(tmp_path, status):
    with serving(replying()) as other:
        target = f"http://user:{KEY}@127.0.0.1:{other.server_port}/v1/chat/completions?key={KEY}"
        with serving(replying(status, b"", Location=target)) as server:
            with pytest.raises(
                EvaluationError, match=rf"HTTP {status}, a redirect to http://127\.0\.0\.1:.*base_url"
            ) as e:
                grade(server, tmp_path)
            assert len(server.requests) == 1 and server.requests[0][1]["Authorization"] == f"Bearer {KEY}"
        assert not other.requests
    assert not told(tmp_path, str(e.value))


@pytest.mark.parametrize(
    "location", ["", "/v1/elsewhere", "http://[", "//other", "file:///etc/passwd", "http://h:9x/"]
)
def test_no_redirect_is_followed_wherever_it_leads(tmp_path, location):
    with serving(replying(307, b"", Location=location)) as server:
        with pytest.raises(EvaluationError, match="HTTP 307, a redirect"):
            grade(server, tmp_path)
        assert len(server.requests) == 1


def test_no_proxy_of_the_environment_sees_a_key_that_is_not_encrypted(tmp_path, monkeypatch):
    with serving(replying()) as proxy, serving(replying()) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.server_port}")
        monkeypatch.delenv("no_proxy", raising=False)
        grade(server, tmp_path)
        assert len(server.requests) == 1 and not proxy.requests


def test_a_proxy_for_https_sees_the_origin_and_no_key(tmp_path, monkeypatch):
    with serving(replying(403, b"")) as proxy:
        monkeypatch.setenv("https_proxy", f"http://me:pass@127.0.0.1:{proxy.server_port}")
        monkeypatch.setenv("no_proxy", "")
        with pytest.raises(EvaluationError, match="Tunnel connection failed") as error:
            grade(proxy, tmp_path, base_url="https://judge.invalid/v1")
        path, headers, body = proxy.requests[0]
        assert path == "judge.invalid:443" and headers["Proxy-Authorization"] == "Basic bWU6cGFzcw=="
        assert not body and KEY not in str(headers)
    assert not told(tmp_path, str(error.value)) and "me:pass" not in str(error.value)


@pytest.mark.parametrize("value", [f" {KEY}\n", f"\t{KEY}\r\n"])
def test_space_around_a_key_is_no_part_of_it(tmp_path, monkeypatch, value):
    monkeypatch.setenv("JUDGE_KEY", value)
    with serving(replying()) as server:
        grade(server, tmp_path)
        assert server.requests[0][1]["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "value", [f"{KEY}\nX-Other: 1", f"{KEY} b", f"{KEY}\tb", f"{KEY}\x7f", f"{KEY}\u00e9", f"{KEY}\u200b"]
)
def test_a_key_that_is_none_is_refused_by_its_variable(monkeypatch, value):
    monkeypatch.setenv("JUDGE_KEY", value)
    with pytest.raises(EvaluationError, match="JUDGE_KEY is no key") as error:
        read_key(JudgeConfig(base_url="http://localhost/v1", model="m", api_key="JUDGE_KEY"))
    assert KEY not in str(error.value)


@pytest.mark.parametrize("value", ["", "  \n"])
def test_an_empty_key_is_refused(monkeypatch, value):
    monkeypatch.setenv("JUDGE_KEY", value)
    with pytest.raises(EvaluationError, match="JUDGE_KEY, which is empty"):
        read_key(JudgeConfig(base_url="http://localhost/v1", model="m", api_key="JUDGE_KEY"))


@pytest.mark.parametrize("name", [KEY, "a b", "$JUDGE_KEY", "", "a" * 200])
def test_a_key_in_place_of_its_variable_is_refused_and_not_shown(name):
    with pytest.raises(ValueError, match="no name of an environment variable") as error:
        JudgeConfig(base_url="http://localhost/v1", model="m", api_key=name)
    assert not name or name not in str(error.value)


def test_a_variable_that_may_be_a_key_is_not_shown():
    with pytest.raises(EvaluationError, match="which is not set") as error:
        read_key(JudgeConfig(base_url="http://localhost/v1", model="m", api_key="sk_0123456789"))
    assert "sk_0123456789" not in str(error.value)


@pytest.mark.parametrize(
    "base_url",
    [
        f"https://user:{KEY}@host/v1",
        f"https://{KEY}@host/v1",
        f"https://host/v1?key={KEY}",
        f"https://host/v1#{KEY}",
        f"https://host/v1 {KEY}",
        f"https://host/v1\n{KEY}",
        f"https://host/{KEY}\u00e9",
        f"https://host:{KEY}/v1",
        f"ftp://host/{KEY}",
        f"file:///{KEY}",
        f"//host/{KEY}",
        f"http://[{KEY}/v1",
        f"host/{KEY}",
        [f"https://user:{KEY}@host/v1"],
        {"url": f"https://user:{KEY}@host/v1"},
    ],
)
def test_an_address_that_is_no_endpoint_is_refused_and_not_shown(base_url, tmp_path):
    """Whoever makes the configuration: a file, the command line, Python."""
    judge = {"base_url": base_url, "model": "m"}
    tasks = {"pope": {"benchmark": "pope"}}
    file = tmp_path / "judge.yaml"
    file.write_text(json.dumps({"output": "x", "tasks": tasks, "judge": judge}))
    for make in (
        lambda: JudgeConfig(**judge),
        lambda: EvaluationConfig(output="x", tasks=tasks, judge=judge),
        lambda: load_config(file),
        lambda: load_config(None, [f"judge.base_url={json.dumps(base_url)}", "judge.model=m"], tasks=["pope"]),
    ):
        with pytest.raises(ValueError, match="base_url") as error:
            make()
        assert KEY not in str(error.value)


@pytest.mark.parametrize(
    "override", ["judge=https://u:p@host/v1", "judge.base_url https://u:p@host", "judge=https://u:p@h: ["]
)
def test_an_override_that_is_refused_tells_no_password(override):
    with pytest.raises(ConfigError) as error:
        load_config(None, [override], tasks=["pope"])
    assert "u:p" not in str(error.value)


def test_a_file_that_is_no_yaml_tells_no_password(tmp_path):
    file = tmp_path / "judge.yaml"
    file.write_text("judge:\n  base_url: https://u:p@host/v1: x\n")
    with pytest.raises(ConfigError, match="not valid YAML") as error:
        load_config(file)
    assert "u:p" not in str(error.value)


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "127.1.2.3", "[::1]:8000", "localhost", "a.localhost:1"])
def test_plain_http_carries_a_key_within_this_machine(host):
    assert JudgeConfig(base_url=f"http://{host}/v1", model="m", api_key="JUDGE_KEY")


@pytest.mark.parametrize(
    "host", ["judge.example", "10.0.0.1:8000", "localhost.example", "127.0.0.1.example", "[fe80::1]"]
)
def test_plain_http_carries_a_key_elsewhere_only_when_asked(host):
    judge = {"base_url": f"http://{host}/v1", "model": "m"}
    assert JudgeConfig(**judge) and JudgeConfig(**judge, api_key="JUDGE_KEY", plain_http=True)
    with pytest.raises(ValueError, match="unencrypted"):
        JudgeConfig(**judge, api_key="JUDGE_KEY")


def dripping(first):
    """A server that sends `first`, and then a byte every now and then, for longer than any test."""

    def answer(handler):
        handler.wfile.write(first)
        try:
            for _ in range(600):
                handler.wfile.write(b"a")
                handler.wfile.flush()
                time.sleep(0.05)
        except OSError:
            return

    return answer


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 600\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n100\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
    ids=["nothing", "headers", "body", "no length", "chunk", "size of a chunk"],
)
def test_a_server_that_drips_is_left_at_the_deadline(tmp_path, first):
    with serving(dripping(first)) as server:
        start = time.monotonic()
        with pytest.raises(EvaluationError, match=r"no whole answer within 0\.5 s"):
            grade(server, tmp_path, timeout=0.5)
        assert time.monotonic() - start < 3


def test_a_server_that_says_nothing_is_left_at_the_deadline(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        base_url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        with pytest.raises(EvaluationError, match=r"no whole answer within 0\.3 s"):
            grade(None, tmp_path, timeout=0.3, base_url=base_url)


def test_tries_of_a_busy_server_end_at_the_deadline(tmp_path, monkeypatch):
    monkeypatch.setattr("evaluation.judge.judge._PAUSES", (0.1, 60))
    with serving(replying(503)) as server:
        with pytest.raises(EvaluationError, match="HTTP 503 Service Unavailable"):
            grade(server, tmp_path, timeout=2)
        assert len(server.requests) == 2


def test_an_answer_without_an_end_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(completion, "ANSWER_BYTES", 100_000)

    def answer(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                handler.wfile.write(b" " * 65536)
        except OSError:
            return

    with serving(answer) as server, pytest.raises(EvaluationError, match="longer than 100,000 bytes"):
        grade(server, tmp_path)


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "identity, gzip"])
def test_an_answer_that_would_have_to_be_unpacked_is_refused(tmp_path, encoding):
    bomb = gzip.compress(bytes(10**7))
    with serving(replying(200, bomb, Content_Encoding=encoding)) as server:
        with pytest.raises(EvaluationError, match="compressed, which was not asked for"):
            grade(server, tmp_path)
        assert server.requests[0][1]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b'{"choices": {}}',
        b'{"choices": []}',
        b'{"choices": [1]}',
        b'{"choices": [{"message": []}]}',
        b'{"choices": [{"message": {}}]}',
        b'{"choices": [{"message": {"content": [{"text": "a"}]}}]}',
        b'{"choices": [{"message": {"content": 1}}]}',
        b'{"choices": [], "choices": []}',
        b'{"choices": NaN}',
        b'{"choices": ' + b"[" * 10**6 + b"]" * 10**6 + b"}",
        b'{"a": ' + b"9" * 10**5 + b"}",
    ],
)
def test_what_is_no_chat_completion_is_one_clear_error(tmp_path, content):
    with serving(replying(200, content)) as server:
        with pytest.raises(EvaluationError, match=r"/v1/chat/completions failed: its answer") as error:
            grade(server, tmp_path)
        assert (
            len(server.requests) == 1 and len(str(error.value)) < 600 and error.value.__suppress_context__ is not None
        )


def test_a_judge_that_refuses_to_write_gives_no_grade(tmp_path):
    with serving(replying(200, b'{"choices": [{"message": {"content": null, "refusal": "no"}}]}')) as server:
        values, unread = grade(server, tmp_path)
    assert unread == 1 and values["correct"].tolist() == [[0, 1]]


def echo(status, where):
    """A server that repeats the key which it was sent."""

    def answer(handler):
        key = handler.headers["Authorization"]
        if where == "reason":
            handler.wfile.write(f"HTTP/1.1 {status} {key}\x1b[31m\r\n\r\n".encode())
        elif where == "no http":
            handler.wfile.write(f"{key}\r\n\r\n".encode())
        elif where == "redirect":
            replying(302, b"", Location=f"http://{key.split()[1]}/")(handler)
        elif where == "doubled key":
            replying(200, f'{{"{key}": 1, "{key}": 2}}'.encode())(handler)
        else:
            message = {"content": f'{{"correct": 1, "why": "{key}"}}'}
            replying(status, json.dumps({"choices": [{"message": message}]}).encode())(handler)

    return answer


@pytest.mark.parametrize(
    ("status", "where"),
    [
        (401, "reason"),
        (500, "reason"),
        (200, "no http"),
        (302, "redirect"),
        (200, "doubled key"),
        (400, "body"),
        (200, "body"),
    ],
)
def test_a_key_that_a_server_repeats_is_told_nowhere(tmp_path, caplog, capfd, status, where):
    caplog.set_level(logging.DEBUG)
    with serving(echo(status, where)) as server:
        try:
            grade(server, tmp_path)
            said = ""
        except EvaluationError as error:
            chain, said = error, ""
            while chain is not None:
                said, chain = said + str(chain), None if chain.__suppress_context__ else chain.__context__
    assert (status, where) == (200, "body") or said
    assert not told(tmp_path, said, caplog.text, *capfd.readouterr()) and "\x1b" not in said


def judged_run(server, tmp_path, *words):
    """An evaluation of given answers to MM-Vet, with a judge, by the command line."""
    FIXTURES["mmvet"](tmp_path / "data" / "mmvet")
    benchmark = BENCHMARKS["mmvet"]
    rows = benchmark.samples(benchmark.source(tmp_path / "data"))
    given = write_rows(tmp_path / "given.jsonl", [{"id": row.id, "prediction": "no"} for row in rows])
    options = [
        "--predictions",
        given,
        "--tasks",
        "mmvet",
        "--data-root",
        tmp_path / "data",
        "--output",
        tmp_path / "out",
    ]
    judge = [f"judge.base_url={address(server)}", "judge.model=grader", "judge.api_key=JUDGE_KEY"]
    return CliRunner().invoke(app, [str(word) for word in (*options, "bootstrap.samples=100", *judge, *words)])


def test_a_judged_evaluation_writes_nothing_of_its_key(tmp_path):
    with serving(replying()) as server:
        done = judged_run(server, tmp_path)
        assert done.exit_code == 0, done.output
        assert server.requests and all(
            headers["Authorization"] == f"Bearer {KEY}" for _, headers, _ in server.requests
        )
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["config"]["judge"]["api_key"] == "JUDGE_KEY" and "judged" in results["tasks"]["mmvet"]
    assert not told(tmp_path, done.output)


def test_a_judged_evaluation_that_fails_tells_nothing_of_its_key(tmp_path):
    with serving(echo(401, "reason")) as server:
        done = judged_run(server, tmp_path)
    assert done.exit_code == 2 and "HTTP 401 Unauthorized" in re.sub(r"\s+", " ", done.output)
    assert not told(tmp_path, done.output)


def test_a_missing_key_is_said_before_anything_is_asked_or_written(tmp_path, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY")
    with serving(replying()) as server:
        done = judged_run(server, tmp_path)
    assert done.exit_code == 2 and "JUDGE_KEY, which is not set" in re.sub(r"\s+", " ", done.output)
    assert not server.requests and not (tmp_path / "out").exists()


@pytest.mark.parametrize("proxy", ["http://me:pa/ssword@host:1", "http://127.0.0.1:abc", "http://me:ssword@[::1"])
def test_a_malformed_proxy_is_one_error_without_its_password(tmp_path, monkeypatch, proxy):
    monkeypatch.setenv("https_proxy", proxy)
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(EvaluationError, match="https_proxy, is malformed") as e:
        grade(None, tmp_path, base_url="https://judge.invalid/v1")
    assert "/ssword" not in str(e.value) and "me:" not in str(e.value) and "pa" + "/" not in str(e.value)


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".org"])
def test_a_host_that_no_name_can_be_is_refused(host):
    with pytest.raises(ValueError, match="is no address"):
        JudgeConfig(base_url=f"https://{host}/v1", model="m")


@pytest.mark.parametrize(
    "base_url", [f"https://h/{KEY}/v1", f"https://{KEY.upper()}.org/v1", "https://h/%73" + KEY[1:]]
)
def test_a_key_in_the_address_is_refused_and_not_shown(base_url):
    with pytest.raises(EvaluationError, match="base_url holds the key") as e:
        read_key(JudgeConfig(base_url=base_url, model="m", api_key="JUDGE_KEY"))
    assert KEY not in str(e.value)


def test_a_key_that_is_too_short_to_be_cleared_is_refused(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "abc1234")
    with pytest.raises(EvaluationError, match="shorter than 8") as e:
        read_key(JudgeConfig(base_url="https://h/v1", model="m", api_key="JUDGE_KEY"))
    assert "abc1234" not in str(e.value)


def test_a_redirect_to_a_host_that_holds_the_key_does_not_show_it(tmp_path):
    location = f"https://{KEY.upper()}.org/"
    with (
        serving(replying(302, b"", Location=location)) as server,
        pytest.raises(EvaluationError, match="HTTP 302, a redirect,") as e,
    ):
        grade(server, tmp_path)
    assert KEY not in str(e.value).lower()
