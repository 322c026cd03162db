"""Frames and the desk: what a slot says arrives whole and in order, and nobody else is listened to."""

from __future__ import annotations

import logging
import select
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkgap.scheduled import desk as desks
from sparkgap.scheduled.desk import Desk
from sparkgap.scheduled.frames import FrameError, Packer, Unpacker, key_of
from sparkgap.scheduled.link import Link

KEY = key_of("token", b"a" * 16, b"b" * 16)
MESSAGES = st.lists(
    st.tuples(st.text(max_size=5), st.dictionaries(st.text(max_size=3), st.integers()), st.binary(max_size=50)), max_size=5
)


@given(MESSAGES, st.integers(1, 40))
def test_frames_come_out_as_they_went_in_however_they_are_cut(told: list[Any], size: int) -> None:
    packer, unpacker = Packer(KEY, "up"), Unpacker(KEY, "up")
    raw = b"".join(b"".join(packer.pack(*message)) for message in told)
    got = [f for at in range(0, len(raw), size) for f in unpacker.feed(raw[at : at + size])]
    assert [(f.kind, f.header, bytes(f.payload)) for f in got] == told


@given(st.data())
def test_whatever_is_changed_on_the_way_is_refused(data: st.DataObject) -> None:
    raw = bytearray(b"".join(Packer(KEY, "up").pack("kind", {"n": 1}, b"payload")))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    unpacker = Unpacker(KEY, "up")
    try:
        assert not list(unpacker.feed(bytes(raw)))  # a length that has grown: more is waited for, and nothing is given
    except FrameError:
        pass


@pytest.mark.parametrize("what", ["again", "later", "back", "other key"])
def test_a_frame_out_of_its_place_is_refused(what: str) -> None:
    packer = Packer(KEY, "up")
    first, second = (b"".join(packer.pack(str(n))) for n in range(2))
    unpacker = Unpacker(KEY if what != "other key" else bytes(32), "up" if what != "back" else "down")
    raw = {"again": first + first, "later": second, "back": first, "other key": first}[what]
    with pytest.raises(FrameError, match="not made with the token"):
        list(unpacker.feed(raw))


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk("127.0.0.1")
    yield made
    made.close()


def news(desk: Desk, count: int) -> list[Any]:
    found: list[Any] = []
    while len(found) < count:
        found += desk.poll(10)
    return found


def connect(desk: Desk, token: str) -> Link:
    """Connect while the desk polls; nothing can be heard of the slot yet."""
    with ThreadPoolExecutor(1) as pool:
        link = pool.submit(Link, "127.0.0.1", desk.port, token, {"number": 3})
        link.add_done_callback(lambda _: desk.post("connected"))
        found: list[Any] = []
        while "connected" not in found:
            found += desk.poll(10)
    for one in found:
        if one != "connected":
            desk.post(one)
    return link.result()


def test_a_slot_and_the_desk_talk(desk: Desk) -> None:
    link = connect(desk, desk.token)
    big = bytes(range(256)) * 20_000
    (opened,) = news(desk, 1)
    assert (opened.slot, opened.facts) == (1, {"number": 3})
    with ThreadPoolExecutor(1) as pool:  # more than the socket takes at once
        pool.submit(link.send, "ended", {"lease": 1}, big)
        (said,) = news(desk, 1)
    assert (said.frame.kind, said.frame.header, bytes(said.frame.payload)) == ("ended", {"lease": 1}, big)
    desk.send(1, "lease", {"lease": 2}, b"items")
    frames: list[Any] = []
    while not frames:
        got = link.receive()
        assert got is not None
        frames += got
    assert (frames[0].kind, bytes(frames[0].payload)) == ("lease", b"items")
    desk.post("from another thread")
    assert news(desk, 1) == ["from another thread"]
    link.close()
    assert news(desk, 1) == [desks.Gone(1)]
    desk.send(1, "lease")  # to one that has gone: nothing happens


def test_a_stranger_is_shown_out_and_others_go_on(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    friend = connect(desk, desk.token)
    assert len(news(desk, 1)) == 1
    stranger = connect(desk, "wrong token")
    scanner = socket.create_connection(("127.0.0.1", desk.port))
    scanner.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n" * 10)
    with caplog.at_level(logging.WARNING):
        while len(caplog.records) < 2:
            assert desk.poll(10) == []
    assert "not made with the token" in caplog.text
    friend.send("still here")
    assert [n.frame.kind for n in news(desk, 1)] == ["still here"]
    for one in (friend.socket, stranger.socket, scanner):
        one.close()


def test_who_says_nothing_is_not_kept_for_ever(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = socket.create_connection(("127.0.0.1", desk.port))
    desk.poll(10)
    monkeypatch.setattr(desks, "HELLO_SECONDS", -1.0)
    assert desk.poll(0) == []
    silent.settimeout(10)
    assert len(silent.recv(100)) == 16  # the nonce
    assert silent.recv(100) == b""
    silent.close()


class TestEncrypted:
    @pytest.fixture
    def certificate(self, tmp_path: Path) -> tuple[Path, Path]:
        return self.made(tmp_path, "driver")

    def made(self, folder: Path, name: str) -> tuple[Path, Path]:
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=driver",
             "-keyout", str(key), "-out", str(certificate)],
            check=True, capture_output=True,
        )  # fmt: skip
        return certificate, key

    @pytest.fixture
    def desk(self, certificate: tuple[Path, Path]) -> Iterator[Desk]:
        made = Desk("127.0.0.1", certificate)
        yield made
        made.close()

    def test_large_frames_cross_both_ways(self, desk: Desk) -> None:
        def talk() -> bytes:
            link = Link("127.0.0.1", desk.port, desk.token, {"number": 3}, desk.certificate)
            poll = select.poll()
            poll.register(link.socket, select.POLLIN)
            frames: list[Any] = []
            while not frames:
                assert poll.poll(60_000)
                got = link.receive()
                assert got is not None
                frames += got
            link.send("back", {}, bytes(frames[0].payload))
            link.close()
            return bytes(frames[0].payload)

        payload = bytes(range(256)) * (5 << 12)
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(talk)
            found = news(desk, 1)
            assert found[0].facts == {"number": 3}
            desk.send(found[0].slot, "lease", {}, payload)
            found = news(desk, 2)
            assert other.result(60) == payload
        assert bytes(found[0].frame.payload) == payload
        assert found[1] == desks.Gone(1)

    def test_a_client_without_tls_is_refused(self, desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
        with socket.create_connection(("127.0.0.1", desk.port)) as plain, ThreadPoolExecutor(1) as pool:
            plain.settimeout(60)
            plain.sendall(b"a" * 16)
            said = pool.submit(self.all_of, plain)
            said.add_done_callback(lambda _: desk.post("done"))
            while "done" not in desk.poll(60):
                pass
            assert desk.certificate.encode() not in said.result(0)
        assert "TLS could not begin" in caplog.text

    def all_of(self, plain: socket.socket) -> bytes:
        found = b""
        try:
            while part := plain.recv(4096):
                found += part
        except ConnectionError:
            pass
        return found

    def test_a_wrong_certificate_is_told(self, desk: Desk, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        other = self.made(tmp_path, "other")[0].read_text()
        with ThreadPoolExecutor(1) as pool:
            link = pool.submit(Link, "127.0.0.1", desk.port, desk.token, {}, other)
            link.add_done_callback(lambda _: desk.post("done"))
            while "done" not in desk.poll(60):
                pass
            with pytest.raises(ConnectionError, match="does not have the TLS certificate"):
                link.result(0)
            while "TLS could not begin" not in caplog.text:
                desk.poll(60)
