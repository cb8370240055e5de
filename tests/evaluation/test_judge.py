"""A judge behind an endpoint on this machine: grades by value, kept on the way, never guessed."""

import io
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from rich.console import Console

from evaluation import predictions
from evaluation.errors import EvaluationError
from evaluation.judge.judge import JudgeConfig, judge_rows, read_grades
from evaluation.tasks import Judge, Sample, ask

JUDGE = Judge("Q {question} R {reference} A {prediction}", {"correct": 1, "score": 5})


@pytest.fixture
def endpoint():
    """A server that grades by equality with the reference; it mumbles at `mumble`, notes its `requests`, and gives the
    `states` first."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.requests.append((self.path, dict(self.headers), body))
            prompt = body["messages"][0]["content"]
            right = re.search(r"R (\S+) A \1\b", prompt) is not None
            reply = "hm" if "mumble" in prompt else f'Well: {{"correct": {int(right)}, "score": {5 if right else 2}}}'
            content = json.dumps({"choices": [{"message": {"content": reply}}]}).encode()
            self.send_response(server.states.pop(0) if server.states else 200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.states = [], []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def rows(*answers):
    return [Sample(answer, ask(f"which? {answer}"), answer, (answer,), answer) for answer in answers]


def grade(endpoint, tmp_path, answers, **changes):
    config = JudgeConfig(**{"base_url": f"http://127.0.0.1:{endpoint.server_port}/v1/", "model": "grader", **changes})
    return judge_rows(
        JUDGE,
        config,
        rows("red", "green", "blue"),
        answers,
        path=tmp_path / "judged" / "colour.jsonl",
        overwrite=False,
        description="colour judged",
        console=Console(file=io.StringIO()),
    )


def test_every_value_is_a_mean_over_rows(endpoint, tmp_path):
    values, unread = grade(endpoint, tmp_path, ["red", "yellow", "mumble"])
    assert values["correct"].tolist() == [[1, 1], [0, 1], [0, 1]]
    assert values["score"].tolist() == [[5, 1], [2, 1], [0, 1]]
    assert unread == 1
    path, _, body = endpoint.requests[0]
    assert path == "/v1/chat/completions" and body["temperature"] == 0 and body["model"] == "grader"
    asked = body["messages"][0]["content"]
    assert 'JSON object {"correct": a number from 0 to 1, "score": a number from 0 to 5}' in asked


def test_replies_are_kept_and_not_asked_for_again(endpoint, tmp_path):
    first = grade(endpoint, tmp_path, ["red", "yellow", "mumble"])
    endpoint.requests.clear()
    again = grade(endpoint, tmp_path, ["red", "yellow", "mumble"])
    assert not endpoint.requests and all((first[0][key] == again[0][key]).all() for key in first[0])


def test_only_changed_answers_are_graded_anew(endpoint, tmp_path):
    grade(endpoint, tmp_path, ["red", "yellow", "mumble"])
    endpoint.requests.clear()
    values, _ = grade(endpoint, tmp_path, ["red", "green", "mumble"])
    assert len(endpoint.requests) == 1 and values["correct"].tolist() == [[1, 1], [1, 1], [0, 1]]
    with pytest.raises(EvaluationError, match=r"different: judge\)\. Remove it to have all graded anew"):
        grade(endpoint, tmp_path, ["red", "green", "mumble"], model="another")


def test_one_process_grades_alone(endpoint, tmp_path, monkeypatch):
    """The others are not here: to wait for them would end the run."""
    monkeypatch.setattr(predictions, "wait", lambda: pytest.fail("it waits for other processes"))
    assert grade(endpoint, tmp_path, ["red"] * 3)[1] == 0


def test_what_rows_say_is_not_filled_in_again():
    row = Sample("0", ask("what does {prediction} print?"), "{reference}", ("{prediction}",), "0")
    assert JUDGE.render(row, "ANSWER").startswith(
        "Q what does {prediction} print? R {reference} | {prediction} A ANSWER\n"
    )


def test_the_key_comes_from_the_environment(endpoint, tmp_path, monkeypatch):
    with pytest.raises(EvaluationError, match="NO_KEY, which is not set"):
        grade(endpoint, tmp_path, ["red"] * 3, api_key="NO_KEY")
    monkeypatch.setenv("A_KEY", "secret-key")
    grade(endpoint, tmp_path, ["red"] * 3, api_key="A_KEY")
    assert endpoint.requests[-1][1]["Authorization"] == "Bearer secret-key"


def test_an_endpoint_that_fails_is_named(endpoint, tmp_path):
    endpoint.states = [401]
    with pytest.raises(EvaluationError, match=r"/v1/chat/completions failed: .*401.*run again"):
        grade(endpoint, tmp_path, ["red", "green", "blue"], workers=3)
    assert len(endpoint.requests) == 3, "what is not allowed is not asked again"
    endpoint.requests.clear()
    grade(endpoint, tmp_path, ["red", "green", "blue"], workers=3)
    assert len(endpoint.requests) == 1, "the replies beside the one that failed are kept"


def test_an_endpoint_that_is_busy_is_asked_again(endpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("evaluation.judge.judge._PAUSES", (0, 0, 0))
    endpoint.states = [429, 503, 500]
    values, unread = grade(endpoint, tmp_path, ["red", "green", "blue"], workers=1)
    assert values["correct"].tolist() == [[1, 1]] * 3 and unread == 0
    endpoint.states = [503] * 9
    with pytest.raises(EvaluationError, match=r"failed: .*503"):
        grade(endpoint, tmp_path, ["blue"] * 3, workers=1)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "4",
        "{}",
        '{"correct": 1}',
        '{"correct": 1, "score": 6}',
        '{"correct": -1, "score": 1}',
        '{"correct": [], "score": 1}',
        '{"correct": true, "score": 1}',
        '{"correct": 1, "score": "5"}',
        '{"correct": 1, "score": ' + "9" * 400 + "}",
        '{"correct": 1, "score": NaN}',
    ],
)
def test_what_is_no_grade_is_not_read_as_one(reply):
    assert read_grades(reply, JUDGE.values) is None
