"""Servers that misbehave, each row in its own way: where each row ends, and what ends a run."""

from __future__ import annotations

import gzip
import json
import os
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from builder.documents.verdict import ImageIdentity
from builder.gate.assemble import write_run
from builder.gate.run import About, Run, Wanted, run_suite
from builder.gate.target import Target
from builder.util.context import Context
from builder.util.errors import GateError, MismatchError, UnreachableError
from tests.support.chatserver import ChatServer, chatting, hang_up, prompt_of
from tests.support.clock import ManualClock, Owned
from tests.support.suites import row, run, say, write_suite

GOOD = say(legal=True)
LIMITS = {"attempt_seconds": 60, "tries": 2, "connections": 4, "dead_after": 100}


def html(server: ChatServer, handler: Any) -> None:
    handler.say(200, b"<html><body>It works!</body></html>", Content_Type="text/html")


def bare_string(server: ChatServer, handler: Any) -> None:
    handler.say(200, b'"hello"', Content_Type="application/json")


def no_choices(server: ChatServer, handler: Any) -> None:
    server.say(handler, {**server.completion("x"), "choices": []})


def truncated(server: ChatServer, handler: Any) -> None:
    body = json.dumps(server.completion(GOOD)).encode()
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])
    handler.wfile.flush()
    hang_up(handler)


def endless(server: ChatServer, handler: Any) -> None:
    """As many bytes as anybody takes."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    handler.close_connection = True
    while not server.over.is_set():
        handler.wfile.write(b" " * (1 << 16))


def compressed(server: ChatServer, handler: Any) -> None:
    """A small body that becomes a large one."""
    data = b" " * (32 << 20) + json.dumps(server.completion(GOOD)).encode()
    handler.say(200, gzip.compress(data), Content_Type="application/json", Content_Encoding="gzip")


def status(number: int, message: str, **error: str) -> Any:
    def respond(server: ChatServer, handler: Any) -> None:
        server.say(handler, {"error": {"message": message, "type": "BadRequestError", "code": number, **error}}, number)

    return respond


CONTEXT = "This model's maximum context length is 4029 tokens. However, you requested 9000 tokens in the messages."
CASES: dict[str, tuple[Any, str]] = {
    "good": (GOOD, "answered"),
    "fenced": (f"```json\n{GOOD}\n```", "answered"),
    "html": (html, "transport"),
    "bare-string": (bare_string, "transport"),
    "no-choices": (no_choices, "transport"),
    "content-of-parts": ({"content": [{"type": "text", "text": GOOD}]}, "transport"),
    "truncated-body": (truncated, "transport"),
    "hung-up": (lambda _server, handler: hang_up(handler), "transport"),
    "endless": (endless, "transport"),
    "compressed": (compressed, "transport"),
    "aborted": ({"content": GOOD, "finish_reason": "abort"}, "transport"),
    "failed-within": ({"content": GOOD, "finish_reason": "error"}, "transport"),
    "unfinished": ({"content": GOOD, "finish_reason": None}, "transport"),
    "about-finishing": (say(legal=True, note='"finish_reason": null'), "answered"),
    "always-429": (status(429, "slow down"), "server_error"),
    "always-500": (status(500, "EngineDeadError"), "server_error"),
    "not-found": (status(404, "no such model"), "server_error"),
    "context": (status(400, CONTEXT), "over_context"),
    "context-by-code": (status(400, "too much", code="context_length_exceeded"), "over_context"),
    "empty": ("", "empty"),
    "null": ({"content": None}, "empty"),
    "spaces": (" \n ", "empty"),
    "reasoning-content": ({"content": None, "reasoning_content": GOOD}, "empty"),
    "reasoning": ({"content": "", "reasoning": GOOD}, "empty"),
    "open-think": (f"<think>{GOOD}", "empty"),
    "only-think": (f"<think>{GOOD}</think>", "empty"),
    "thoughtful": (f"<think>not {say(legal=False)}</think>\n{GOOD}", "answered"),
    "thoughts-without-a-beginning": (f"{say(legal=False)} or not\n</think>\n\n{GOOD}", "answered"),
    "only-the-end-of-thoughts": (f"{GOOD}</think>", "empty"),
    "repeated-key": ('{"legal": false, "legal": true}', "unparsable"),
    "not-a-number": ('{"legal": true, "score": NaN}', "unparsable"),
    "tool": ({"content": None, "finish_reason": "tool_calls", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": GOOD}}]}, "empty"),
    "length-empty": ({"content": "", "finish_reason": "length"}, "truncated"),
    "length": ({"content": GOOD, "finish_reason": "length"}, "truncated"),
    "filter": ({"content": "", "finish_reason": "content_filter"}, "refused"),
    "refusal": ({"content": None, "refusal": "I will not."}, "refused"),
    "prose": ("Yes, it is legal.", "unparsable"),
    "list": ("[true]", "unparsable"),
    "surrogate": ('{"legal": true, "x": "\\ud800"}', "answered"),
}  # fmt: skip


def respond(server: ChatServer, body: Mapping[str, Any], handler: Any) -> Any:
    found = CASES[prompt_of(body).removeprefix("ask ")][0]
    return found(server, handler) if callable(found) else found


@pytest.fixture(scope="module")
def misbehaved(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run over all cases, each a row. A warning would show the text of a response, which may be private."""
    root = tmp_path_factory.mktemp("misbehaved")
    suite = write_suite(root, [row(name, legal=True) for name in CASES], limits=LIMITS)
    with chatting(respond) as server, warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        found = run(root, suite, server)
    assert not [each for each in seen if "Pydantic serializer" in str(each.message)]
    return found


@pytest.mark.parametrize("name", CASES)
def test_each_row_ends_in_its_bucket(misbehaved: Run, name: str) -> None:
    judged = next(each for each in misbehaved.ours.judged if each.row.id == name)
    assert judged.bucket == CASES[name][1], judged
    assert judged.right == {"agreement": CASES[name][1] == "answered"}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("aborted", 'the response was not finished: finish_reason "abort"'),
        ("unfinished", "the response was not finished: finish_reason null"),
        ("compressed", "the response is compressed (gzip)"),
        ("endless", "the response is larger than 16 MiB"),
        ("bare-string", "not a response of the chat API: 'hello'"),
        ("content-of-parts", "a value is missing or has another type (expected string"),
        ("hung-up", "no whole response: Server disconnected"),
        ("truncated-body", "no whole response: peer closed connection"),
    ],
)
def test_what_is_wrong_with_a_response_is_told(misbehaved: Run, name: str, why: str) -> None:
    judged = next(each for each in misbehaved.ours.judged if each.row.id == name)
    assert why in judged.answered[0].why


def test_no_row_leaves_the_denominator(misbehaved: Run) -> None:
    metric = misbehaved.ours.metrics["agreement"]
    assert sum(misbehaved.ours.buckets.values()) == len(CASES) == metric.denominator
    assert (
        metric.numerator
        == misbehaved.ours.buckets["answered"]
        == sum(wanted == "answered" for _, wanted in CASES.values())
    )


def test_attempts_are_those_of_the_suite_and_no_more(tmp_path: Path) -> None:
    suite = write_suite(
        tmp_path, [row("good", legal=True), row("always-500", legal=True)], limits={**LIMITS, "tries": 3}
    )
    with chatting(respond) as server:
        found = run(tmp_path, suite, server)
        assert server.asked.count("ask always-500") == 3
    assert found.ours.buckets["server_error"] == 1


@pytest.mark.parametrize(
    ("name", "says", "hint"),
    [
        (
            "401",
            "Error code: 401",
            "set BUILDER_API_KEY (BUILDER_REFERENCE_API_KEY for the reference), then run the same",
        ),
        ("not-found", "no such model", "mend that, then run the same command again"),
        ("redirect", "Error code: 307", "mend that, then run the same command again"),
        ("always-500", "EngineDeadError", "start it, then run the same command again"),
        ("hung-up", "no whole response", "start it, then run the same command again"),
        ("400", "seed is not known", "mend that, then run the same command again"),
    ],
)
def test_a_server_that_responds_to_no_row_is_no_failed_quality(tmp_path: Path, name: str, says: str, hint: str) -> None:
    """Though the suite has fewer rows than end a run; and when it responds, every row is asked again."""
    suite = write_suite(tmp_path, [row(f"r{number}", legal=True) for number in range(3)], limits=LIMITS)
    case = {
        "401": status(401, "who is that?"),
        "400": status(400, "seed is not known"),
        "redirect": lambda _s, handler: handler.say(307, b"", Location="/x"),
    }
    broken = case.get(name) or CASES[name][0]
    with chatting(lambda server, _body, handler: broken(server, handler)) as server:
        with pytest.raises(UnreachableError, match=r"a server (is dead|refuses every row)$") as caught:
            run(tmp_path, suite, server)
        why = caught.value.details[0][1]
        assert why.startswith("target: all 3 rows failed after ")
        assert says in why
        assert (caught.value.hint or "").startswith(hint)
        server.script = lambda _s, _b, _h: GOOD
        assert run(tmp_path, suite, server).ours.buckets["answered"] == 3


def test_a_refusal_is_what_the_server_says_and_not_what_it_was_asked(tmp_path: Path) -> None:
    """inspect-ai puts the request into its error: a prompt about context lengths is no prompt that is too long."""
    rows = [row(name, legal=True) for name in ("good", "about-context")]
    rows[1]["messages"] = [{"role": "user", "content": "What is the maximum context length?"}]

    def script(server: ChatServer, body: Mapping[str, Any], handler: Any) -> Any:
        return GOOD if prompt_of(body) == "ask good" else status(400, "seed is not known")(server, handler)

    suite = write_suite(tmp_path, rows, limits=LIMITS)
    with chatting(script) as server:
        judged = run(tmp_path, suite, server).ours.judged[1]
    assert judged.bucket == "server_error"
    assert "seed is not known" in judged.answered[0].why
    assert "maximum context" not in judged.answered[0].why


def test_a_row_is_saved_by_a_later_attempt(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, [row("a", legal=True)], limits=LIMITS)
    with chatting(
        lambda server, _b, handler: GOOD if len(server.asked) > 1 else status(503, "loading")(server, handler)
    ) as server:
        assert run(tmp_path, suite, server).ours.buckets["answered"] == 1


def silent(server: ChatServer, body: Mapping[str, Any], _handler: Any) -> Any:
    return GOOD if prompt_of(body) == "ask good" else server.over.wait(60) and None


def test_a_silent_server_ends_by_the_limit_of_an_attempt(tmp_path: Path) -> None:
    """The response never comes, so that any machine is slow enough for it to be late."""
    rows = [row("a", legal=True), row("good", legal=True)]
    suite = write_suite(tmp_path, rows, limits={"attempt_seconds": 1, "tries": 1, "dead_after": 9})
    with chatting(silent) as server:
        found = run(tmp_path, suite, server).ours.judged[0]
    assert found.bucket == "transport"
    assert "no response within 1 s (" in found.replies[0].why


def test_a_dead_server_ends_the_run_without_a_verdict_and_the_run_goes_on_later(tmp_path: Path) -> None:
    rows = [row(f"r{number:02}", legal=True) for number in range(20)]
    suite = write_suite(tmp_path, rows, limits={"attempt_seconds": 60, "tries": 2, "connections": 1})
    with chatting(lambda _s, _b, _h: GOOD) as server:

        def script(chat: ChatServer, body: Mapping[str, Any], handler: Any) -> Any:
            return GOOD if len(set(chat.asked)) <= 5 else hang_up(handler)

        server.script = script
        with pytest.raises(UnreachableError, match=r"a server (is dead|refuses every row)$") as caught:
            run(tmp_path, suite, server)
        assert "target: 8 rows in a row failed after 2 attempts each" in caught.value.details[0][1]
        # 5 answers, and 2 attempts on each of 8 rows; the other 7 rows were not asked.
        assert len(server.asked) == 5 + 2 * 8
        server.script = lambda _s, _b, _h: GOOD
        before = len(server.asked)
        found = run(tmp_path, suite, server)
    assert len(server.asked) - before == 15
    assert found.ours.buckets["answered"] == 20
    assert found.ours.metrics["agreement"].denominator == 20


@pytest.mark.parametrize("change", ["model", "version", "max_model_len"])
def test_a_restart_with_something_else_is_found(tmp_path: Path, change: str) -> None:
    suite = write_suite(
        tmp_path, [row(f"r{number}", legal=True) for number in range(6)], limits={**LIMITS, "connections": 1}
    )

    def script(server: ChatServer, body: Mapping[str, Any], handler: Any) -> Any:
        if len(server.asked) == 3:
            setattr(server, change, {"model": "other", "version": "0.21.0", "max_model_len": 1}[change])
        return GOOD

    with chatting(script) as server:
        with pytest.raises(MismatchError):
            run(tmp_path, suite, server)
        # What is there was answered by two servers: nobody goes on with it.
        with pytest.raises(Exception, match=r"cannot be continued|is another one"):
            run(tmp_path, suite, server)
        assert run(tmp_path, suite, server, restart=True).ours.buckets["answered"] == 6


def test_another_image_behind_the_same_server_is_found(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, [row("a", legal=True)], limits=LIMITS)
    images = [ImageIdentity(reference="x", digest=f"sha256:{digit * 64}", id="x") for digit in "12"]
    with chatting(lambda _s, _b, _h: GOOD) as server:
        target = Target("target", server.url, key=None, context=Context(), image=lambda: images.pop(0))
        with pytest.raises(MismatchError) as caught:
            run_suite(suite, target, None, About(), Wanted(tmp_path / "out"), context=Context())
    assert caught.value.details[0][0] == "image"


def test_budgets_end_a_run_as_incomplete_and_it_goes_on(tmp_path: Path) -> None:
    rows = [row(f"r{number}", legal=True) for number in range(6)]
    suite = write_suite(tmp_path, rows, limits={**LIMITS, "connections": 1, "total_tokens": 45})
    with chatting(lambda _s, _b, _h: GOOD) as server:
        with pytest.raises(GateError, match="the run is incomplete") as caught:
            run(tmp_path, suite, server)
        assert caught.value.details[0][1] == "45 tokens of 45 are used up"
        assert len(server.asked) == 3
        assert not list((tmp_path / "dist/gate").glob("*.json"))
        # The budget is used up again, by the last row: nothing is missing.
        found = run(tmp_path, suite, server)
        assert len(server.asked) == 6
    assert found.ours.buckets["answered"] == 6


class StoppedClock(ManualClock):
    """Time passes, and the wall clock is set back, when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = 0.0
        self.back = 0.0

    def elapsed(self) -> float:
        return self.passed

    def wall(self) -> float:
        return super().wall() - self.back


def owned(clock: StoppedClock) -> Context:
    return Owned(clock).context


def test_the_budget_of_time_is_the_clocks(tmp_path: Path) -> None:
    rows = [row(f"r{number}", legal=True) for number in range(6)]
    suite = write_suite(tmp_path, rows, limits={**LIMITS, "connections": 1, "wall_minutes": 10})
    clock = StoppedClock()

    def script(_server: ChatServer, _body: Mapping[str, Any], _handler: Any) -> str:
        clock.passed += 200
        return GOOD

    with chatting(script) as server:
        with pytest.raises(GateError) as caught:
            run(tmp_path, suite, server, context=owned(clock))
        assert caught.value.details[0][1] == "the budget of 10 minutes is used up"
        assert len(server.asked) == 3


def test_a_clock_that_goes_back_gives_no_verdict_that_ends_before_it_began(tmp_path: Path) -> None:
    suite = write_suite(
        tmp_path, [row("a", legal=True), row("b", legal=True)], limits={**LIMITS, "connections": 1, "total_tokens": 15}
    )
    clock = StoppedClock()

    def script(_server: ChatServer, _body: Mapping[str, Any], _handler: Any) -> str:
        clock.back += 86_400
        clock.passed += 5
        return GOOD

    with chatting(script) as server:
        with pytest.raises(GateError):
            run(tmp_path, suite, server, context=owned(clock))
        found = run(tmp_path, suite, server, context=owned(clock))
    assert (found.ended - found.begun).total_seconds() == 5
    assert found.notes == ("the clock of this machine went back during the run",)


def test_prompts_over_the_cap_are_counted_with_tools_and_not_sent(tmp_path: Path) -> None:
    rows = [
        row("short", legal=True),
        {**row("long", legal=True), "tools": [{"type": "function", "function": {"name": "f"}}]},
    ]
    rows[1]["messages"] = [{"role": "user", "content": "word " * 50}]
    suite = write_suite(tmp_path, rows, limits=LIMITS, prompt_cap=40, require=[{"count": "over_cap", "max": 1}])
    with chatting(lambda _s, _b, _h: GOOD) as server:
        found = run(tmp_path, suite, server)
        assert server.asked == ["ask short"]
    assert found.ours.buckets == {**dict.fromkeys(found.ours.buckets, 0), "answered": 1, "over_cap": 1}
    assert found.ours.metrics["agreement"].denominator == 1


def test_a_server_that_cannot_count_is_said_so(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, [row("a", legal=True)], prompt_cap=40, require=[{"count": "over_cap", "max": 1}])
    with chatting(lambda _s, _b, _h: GOOD, tokens=lambda _text: "many") as server, pytest.raises(UnreachableError, match="does not count row a"):  # fmt: skip
        run(tmp_path, suite, server)


def test_what_is_sent_is_the_row_as_it_is_written(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "  Be brief. "},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": "x", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "y"},
        {"role": "user", "content": "ask a"},
    ]  # fmt: skip
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "pattern": "kept"}}}]
    rows = [{"id": "a", "messages": messages, "tools": tools, "expected": {"legal": True}}]
    sampling = {"temperature": 0.5, "top_p": 0.9, "seed": 7, "max_tokens": 99, "thinking": False}
    suite = write_suite(tmp_path, rows, sampling=sampling)
    with chatting(lambda _s, _b, _h: GOOD) as server:
        run(tmp_path, suite, server, key="sk-secret")
        sent, headers = server.bodies[0], {key.lower(): value for key, value in server.headers[0].items()}
    assert sent == {
        "model": "tiny", "messages": messages, "tools": tools, "temperature": 0.5, "top_p": 0.9, "seed": 7, "max_tokens": 99,
        "chat_template_kwargs": {"enable_thinking": False},
    }  # fmt: skip
    assert headers["authorization"] == "Bearer sk-secret"
    for path in tmp_path.rglob("*.eval"):
        with zipfile.ZipFile(path) as log:
            assert not any(b"sk-secret" in log.read(name) for name in log.namelist())


def test_rows_are_asked_in_the_order_of_the_file(tmp_path: Path) -> None:
    rows = [row(name, legal=True) for name in "qwertzuiopasdfghjklyxcvbnm"]
    suite = write_suite(tmp_path, rows, limits={**LIMITS, "connections": 1})
    with chatting(lambda _s, _b, _h: GOOD) as server:
        run(tmp_path, suite, server)
        assert server.asked == [f"ask {each['id']}" for each in rows]


def test_a_file_with_an_environment_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """inspect-ai reads `.env` of this folder, or of any above."""
    (tmp_path / ".env").write_text("HTTP_PROXY=http://127.0.0.1:1\nINSPECT_LOG_LEVEL=nonsense\nFROM_A_FILE=1\n")
    monkeypatch.chdir(tmp_path)
    suite = write_suite(tmp_path, [row("a", legal=True)])
    before = dict(os.environ)
    with chatting(lambda _s, _b, _h: GOOD) as server:
        assert run(tmp_path, suite, server).ours.buckets["answered"] == 1
    assert dict(os.environ) == before


def test_the_password_of_an_address_is_sent_and_kept_nowhere(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, [row("a", legal=True)])
    with chatting(lambda _s, _b, _h: GOOD) as server:
        address = server.url
        server.url = address.replace("http://", "http://me:hunter2@") + "/v1"
        found = run(tmp_path, suite, server)
        headers = {key.lower(): value for key, value in server.headers[0].items()}
    assert headers["authorization"] == "Basic bWU6aHVudGVyMg=="
    assert found.urls == (address, None)
    write_run(found, tmp_path / "dist/gate", redact=False)
    for path in tmp_path.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        if path.suffix == ".eval":
            with zipfile.ZipFile(path) as log:
                data = b"".join(log.read(name) for name in log.namelist())
        assert b"hunter2" not in data
        assert b"bWU6aHVudGVyMg" not in data
