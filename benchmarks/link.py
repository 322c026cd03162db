"""Two hosts on one machine with a slow link between them: network namespaces, joined by a forwarder that delays and paces.

Needs root, iproute2 and /dev/net/tun. The forwarder is two pairs of threads of this process: packets that come out of one
namespace's TUN device go into that of the other one when the link would have brought them there.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_BUFFER_SECONDS = 0.1
"""What would wait longer than this is dropped, as routers do."""

ADDRESSES = ("10.77.0.1", "10.77.0.2")


class Link:
    """The two hosts; use it in `with`.

    Args:
        delay: seconds, one way.
        mbit: megabits a second, each way.
        mtu: bytes of a packet at most; large ones keep the forwarder cheap.
    """

    def __init__(self, delay: float, mbit: float, mtu: int = 9000) -> None:
        self._delay, self._rate, self._mtu = delay, mbit * 1e6 / 8, mtu
        self._names = [f"gap{os.getpid()}{side}" for side in "ab"]
        self._devices: list[int] = []

    def __enter__(self) -> Link:
        try:
            for name, address in zip(self._names, ADDRESSES, strict=True):
                _ip("netns", "add", name)
                self._devices.append(_tun(name))
                _ip("link", "set", name, "netns", name)
                _ip("-n", name, "addr", "add", f"{address}/24", "dev", name)
                _ip("-n", name, "link", "set", name, "mtu", str(self._mtu), "up")
                _ip("-n", name, "link", "set", "lo", "up")
        except BaseException:
            self.__exit__()
            raise
        for source, target in (self._devices, self._devices[::-1]):
            _Way(source, target, self._delay, self._rate, self._mtu).start()
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)  # may not be there
        for device in self._devices:
            os.close(device)

    def start(self, host: int, command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Start a process on host 0 or 1."""
        return subprocess.Popen(["ip", "netns", "exec", self._names[host], *command], text=True, **options)


class _Way:
    """One direction."""

    def __init__(self, source: int, target: int, delay: float, rate: float, mtu: int) -> None:
        self._source, self._target, self._delay, self._rate, self._mtu = source, target, delay, rate, mtu
        self._packets: deque[tuple[float, bytes]] = deque()
        self._some = threading.Semaphore(0)

    def start(self) -> None:
        for work in (self._take, self._give):
            threading.Thread(target=work, daemon=True).start()

    def _take(self) -> None:
        free = 0.0  # when the link has sent all that was given to it
        while packet := _read(self._source, self._mtu + 64):
            now = time.monotonic()
            if free > now + _BUFFER_SECONDS:
                continue
            free = max(now, free) + len(packet) / self._rate
            self._packets.append((free + self._delay, packet))
            self._some.release()

    def _give(self) -> None:
        while self._some.acquire():
            due, packet = self._packets.popleft()
            if (left := due - time.monotonic()) > 0:
                time.sleep(left)  # this is the delay of the link
            try:
                os.write(self._target, packet)
            except OSError:  # the namespaces are gone
                return


def _read(device: int, most: int) -> bytes:
    try:
        return os.read(device, most)
    except OSError:  # the namespaces are gone
        return b""


def _tun(name: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return device


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
