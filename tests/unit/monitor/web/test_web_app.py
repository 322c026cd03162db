"""The server of the page: who gets in, what it answers, and that the stream tells of changes."""

from __future__ import annotations

import json
import socket
import threading
import time

import httpx
import pytest
from web_runs import Making, pictures, rich

import sparkgap as gap
from sparkgap import _errors
from sparkgap.monitor import events
from sparkgap.monitor.events import Task
from sparkgap.monitor.history import History
from sparkgap.monitor.store import Store
from sparkgap.monitor.web.server import serve


@pytest.mark.parametrize("path", ["/", "/api/runs", "/api/runs/x", "/api/runs/x/artifacts/0", "/api/stream"])
@pytest.mark.parametrize("token", [None, "wrong", "schlüssel"])
def test_without_the_token_nothing_is_told(page, path, token):
    answer = httpx.get(f"http://127.0.0.1:{page.port}{path}", params={"token": token} if token else {})
    assert answer.status_code == 401
    assert "needs its token" in answer.text
    assert "set-cookie" not in answer.headers


def test_the_first_visit_leaves_a_cookie_that_opens_the_rest(page):
    with httpx.Client(base_url=f"http://127.0.0.1:{page.port}") as client:
        cookie = client.get(page.url).headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert client.get("/api/runs").status_code == 200
    with httpx.Client(base_url=f"http://127.0.0.1:{page.port}", cookies={cookie.partition("=")[0]: "wrong"}) as client:
        assert client.get("/api/runs").status_code == 401


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "", "[::2]:80"])
def test_other_names_of_this_machine_are_refused(client, host):
    answer = client.get("/api/runs", headers={"host": host})
    assert answer.status_code == 400
    assert "names" in answer.text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:99", "[::1]:80"])
def test_names_of_loopback_are_fine(client, host):
    assert client.get("/api/runs", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/static/page.js", "/api/runs", "/nothing"])
def test_every_answer_has_the_strict_headers(client, path):
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_files_of_the_page_are_all_there_and_call_nobody(client):
    for name in ("index.html", "page.js", "dom.js", "run.js", "list.js", "style.css", "parts.css"):
        assert client.get(f"/static/{name}").status_code == 200
    assert client.get("/static/../app.py").status_code == 404
    assert client.get("/static/%2e%2e/app.py").status_code == 404


def test_runs_newest_first(store, client):
    Making(store, "old", 1000.0, "first")
    Making(store, "new", 2000.0, "second")
    assert [r["name"] for r in client.get("/api/runs").json()["runs"]] == ["second", "first"]


def test_one_run_and_one_that_is_not(store, client):
    made = rich(store)
    found = client.get(f"/api/runs/{made.run}").json()
    assert (found["status"], found["tasks"], found["failed"][0]["error"]) == ("running", 16, "RuntimeError")
    assert client.get("/api/runs/absent").status_code == 404


def test_artifacts_come_with_their_type_and_no_other_type_does(store, client):
    made = Making(store, "r", time.time())
    made.show(Task(1, 0, 0), 0, "pictures", pictures(4))
    made.show(Task(1, 0, 0), 0, "words", "<script>alert(1)</script>")
    page = events.Artifact(run="r", time=1.0, name="p", kind="text", media="text/html", data=b"<script>alert(1)</script>")
    store.say(page)
    image = client.get("/api/runs/r/artifacts/0")
    assert image.headers["content-type"] == "image/png"
    assert image.content.startswith(b"\x89PNG")
    text = client.get("/api/runs/r/artifacts/1")
    assert text.headers["content-type"] == "text/plain; charset=utf-8"
    assert text.headers["content-disposition"].startswith("attachment")
    assert text.headers["x-content-type-options"] == "nosniff"
    assert client.get("/api/runs/r/artifacts/2").status_code == 415
    assert client.get("/api/runs/r/artifacts/3").status_code == 404


def told(lines, event):
    """Return the data of the next server-sent event of a name."""
    for line in lines:
        if line == f"event: {event}":
            return json.loads(next(lines).removeprefix("data: "))
    raise AssertionError("the stream has ended")


def test_the_stream_tells_of_a_change(store, client):
    made = Making(store, "r", time.time(), "net")
    with client.stream("GET", "/api/stream", params=client.params.merge({"run": "r"})) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        assert told(lines, "runs")["runs"][0]["name"] == "net"
        assert told(lines, "run")["status"] == "planned"
        task = Task(1, 0, 0)
        made.start(task, 0)
        made.progress(task, 1, 640, 1)
        state = told(lines, "run")
        while state["rows_out"] == 0:  # the stream may have looked between the two events
            state = told(lines, "run")
        assert (state["status"], state["rows_out"]) == ("running", 640)


def test_the_stream_ends_when_its_client_goes(client, page):
    with client.stream("GET", "/api/stream") as answer:
        lines = answer.iter_lines()
        assert told(lines, "runs") == {"runs": []}
        assert page._server.server_state.tasks
    until = time.monotonic() + 30
    while page._server.server_state.tasks and time.monotonic() < until:
        client.get("/static/icon.svg")
    assert not page._server.server_state.tasks


def test_the_stream_of_an_unknown_run_says_so(client):
    with client.stream("GET", "/api/stream", params=client.params.merge({"run": "../secret"})) as answer:
        assert told(answer.iter_lines(), "absent") == {"run": "../secret"}


def test_past_runs_come_from_the_history_and_no_path_leaves_it(tmp_path):
    folder = tmp_path / "runs"
    (tmp_path / "loose.jsonl").write_text("{}")
    rich(Store(History(folder)), began=1.7e9)
    store = Store(History(folder))
    with serve(store) as page, httpx.Client(base_url=f"http://127.0.0.1:{page.port}", params={"token": page.token}) as client:
        (line,) = client.get("/api/runs").json()["runs"]
        assert (line["name"], line["tasks"]) == ("efficientnet-lite0", 16)
        assert client.get(f"/api/runs/{line['run']}").json()["failures"] == 2
        assert client.get(f"/api/runs/{line['run']}/artifacts/0").headers["content-type"] == "image/png"
        for name in ("..", "%2e%2e", "..%2f", "%2e"):
            assert client.get(f"/api/runs/{name}").status_code == 404
    assert store.runs() == [], "what is only looked at does not push live runs out"


def test_closing_ends_streams_and_the_thread(store):
    page = serve(store)
    with httpx.stream("GET", f"http://127.0.0.1:{page.port}/api/stream", params={"token": page.token}, timeout=30) as answer:
        lines = answer.iter_lines()
        assert told(lines, "runs") == {"runs": []}
        page.close()
        assert list(lines) == [""]
    assert f"sparkgap-page-{page.port}" not in {t.name for t in threading.enumerate()}
    with pytest.raises(httpx.ConnectError):
        httpx.get(page.url)


def test_a_taken_port_and_a_bad_token_are_said_at_once(store):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(_errors.ConfigurationError, match=f":{taken.getsockname()[1]} .*Choose another port"):
            serve(store, port=taken.getsockname()[1])
    with pytest.raises(_errors.ConfigurationError, match="token="):
        serve(store, token="a b")


def test_the_address_has_the_token_and_loopback(page):
    assert page.url == f"http://127.0.0.1:{page.port}/?token={page.token}"
    assert len(page.token) >= 32


def test_a_process_has_one_page_until_it_is_closed():
    first = gap.page()
    try:
        assert gap.page() is first
        first.close()
        second = gap.page()
        assert second is not first
        assert httpx.get(second.url, follow_redirects=True).status_code == 200
    finally:
        gap.page().close()


class Run:
    over = False

    def cancel(self):
        self.over = True


def test_a_run_is_ended_by_the_page_and_by_nobody_else(store, client, page):
    Making(store, "mine", 1000.0, "work")
    run = Run()
    store.stoppable("mine", run)
    ours = {"X-Requested-By": "sparkgap"}
    assert client.post("/api/runs/mine/stop").status_code == 403
    assert httpx.post(f"http://127.0.0.1:{page.port}/api/runs/mine/stop", headers=ours).status_code == 401
    assert client.post("/api/runs/other/stop", headers=ours).status_code == 404
    assert client.get("/api/runs/mine/stop").status_code == 405
    assert not run.over
    assert store.can_stop("mine")
    assert client.post("/api/runs/mine/stop", headers=ours).json() == {"stopped": True}
    assert run.over
    assert not store.can_stop("mine")
    assert client.post("/api/runs/mine/stop", headers=ours).status_code == 404
