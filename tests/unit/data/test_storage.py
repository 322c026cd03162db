from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow.fs as pafs
import pytest

from sparkgap._errors import ConfigurationError, DataError, MissingDependencyError
from sparkgap.data import storage
from sparkgap.data.discovery import discover, is_hidden


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("/a/b", ("", "/a/b")),
        ("/a/b/", ("", "/a/b")),
        ("rel", ("", os.path.abspath("rel"))),
        (Path("/x/y z"), ("", "/x/y z")),
        ("~/x", ("", os.path.expanduser("~/x"))),
        ("file:///a/b%20c", ("", "/a/b c")),
        ("file:/a/b c", ("", "/a/b c")),
        ("s3://bucket/key/x", ("s3://bucket", "key/x")),
        ("s3://bucket/", ("s3://bucket", "")),
        ("s3://bucket", ("s3://bucket", "")),
        ("s3://b/k?region=eu&scheme=http", ("s3://b/?region=eu&scheme=http", "k")),
        ("s3://b/k?.parquet", ("s3://b", "k?.parquet")),
        ("hdfs://h:8020/x", ("hdfs://h:8020", "x")),
        ("a:b/c", ("", os.path.abspath("a:b/c"))),
        ("simplecache::s3://b/k", ("simplecache::s3://b", "k")),
    ],
)
def test_locate(place: str, expected: tuple[str, str]) -> None:
    assert storage.locate(place) == expected


def test_a_percent_sign_in_a_real_name_is_not_decoded(tmp_path: Path) -> None:
    (tmp_path / "a%20b").touch()
    assert storage.locate(f"file:{tmp_path}/a%20b") == ("", f"{tmp_path}/a%20b")


@pytest.mark.parametrize(
    ("root", "path", "expected"),
    [
        ("", "/a", "/a"),
        ("s3://b", "b/k", "s3://b/k"),
        ("s3a://b/?region=x", "b/k", "s3a://b/k"),
        ("hdfs://h:1", "/a/b", "hdfs://h:1/a/b"),
        ("memory://a", "/a/b", "memory://a/b"),
        ("http://h", "http://h/x", "http://h/x"),
    ],
)
def test_origin(root: str, path: str, expected: str) -> None:
    assert storage.origin(root, path) == expected


def test_resolve(memory: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    memory.pipe("/top/deep/x y.bin", b"123")
    for uri in ("memory://top/deep/x y.bin", "memory:///top/deep/x y.bin"):
        system, path = storage.resolve(uri)
        with system.open_input_stream(path) as stream:
            assert stream.read() == b"123"
    (tmp_path / "f").write_bytes(b"45")
    system, path = storage.resolve(f"file://{tmp_path}/f")
    assert isinstance(system, pafs.LocalFileSystem)
    assert system.get_file_info(path).size == 2
    assert storage.filesystem("")[0] is storage.filesystem("")[0]


def test_unknown_places() -> None:
    with pytest.raises(ConfigurationError, match="Nobody knows how to open nope:// addresses"):
        storage.resolve("nope://x/y")
    with pytest.raises(ConfigurationError, match="storage_options are for remote files"):
        storage.resolve("/x", {"key": "k"})
    with pytest.raises(MissingDependencyError, match="A package is needed to read ocilake://"):
        storage.resolve("ocilake://x/y")


class TestDownload:
    def test_file(self, memory: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
        memory.pipe("/models/net.onnx", b"one")
        first = storage.download("memory://models/net.onnx", tmp_path / "cache")
        assert first.name == "net.onnx"
        assert first.read_bytes() == b"one"
        assert storage.download("memory://models/net.onnx", tmp_path / "cache") == first
        memory.pipe("/models/net.onnx", b"longer")
        second = storage.download("memory://models/net.onnx", tmp_path / "cache")
        assert second != first
        assert second.read_bytes() == b"longer"
        assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == sorted({first.parent.name, second.parent.name})

    def test_folder(self, memory: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
        memory.pipe({"/saved/a.pb": b"a", "/saved/vars/x": b"x", "/saved/vars/deep/y": b"y"})
        got = storage.download("memory://saved", tmp_path)
        assert got.name == "saved"
        assert {str(p.relative_to(got)): p.read_bytes() for p in got.rglob("*") if p.is_file()} == {
            "a.pb": b"a", "vars/x": b"x", "vars/deep/y": b"y",
        }  # fmt: skip

    def test_local(self, tmp_path: Path) -> None:
        (tmp_path / "m.bin").write_bytes(b"m")
        assert storage.download(f"file://{tmp_path}/m.bin", tmp_path / "cache").read_bytes() == b"m"

    def test_nothing_there(self, memory: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="There is nothing at memory://no/such"):
            storage.download("memory://no/such", tmp_path)

    def test_a_failed_copy_leaves_nothing(
        self, memory: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        memory.pipe("/m/x", b"x")

        def broken(*_: object) -> None:
            raise OSError("connection lost")

        monkeypatch.setattr("sparkgap.data.storage.shutil.copyfileobj", broken)
        with pytest.raises(DataError, match="memory://m/x cannot be downloaded: connection lost"):
            storage.download("memory://m/x", tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_together(self, memory: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
        memory.pipe("/m/x", b"x" * 100_000)
        start = threading.Barrier(8)
        found: list[Path] = []

        def one() -> None:
            start.wait()
            found.append(storage.download("memory://m/x", tmp_path))

        threads = [threading.Thread(target=one) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 8
        assert len(set(found)) == 1
        assert len(list(tmp_path.iterdir())) == 1


class TestDiscover:
    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        for name in (
            "b/2.x",
            "b/1.x",
            "a.x",
            "_no/3.x",
            ".no/4.x",
            "_p=1/5.x",
            "b/_no",
            "b/.no",
            "b/c._COPYING_",
            "c d/deep/6.y",
        ):
            (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
            (tmp_path / name).write_text(name)
        return tmp_path

    def found(self, tree: Path, *paths: str, recursive: bool = True) -> list[str]:
        listing = discover([f"{tree}/{p}" for p in paths], {}, recursive=recursive)
        return [str(Path(e.path).relative_to(tree)) for e in listing.entries]

    def test_folder(self, tree: Path) -> None:
        assert self.found(tree, "") == ["_p=1/5.x", "a.x", "b/1.x", "b/2.x", "c d/deep/6.y"]
        assert self.found(tree, "", recursive=False) == ["a.x"]

    def test_in_the_order_given(self, tree: Path) -> None:
        assert self.found(tree, "c d", "a.x", "b") == ["c d/deep/6.y", "a.x", "b/1.x", "b/2.x"]

    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("*.x", ["a.x"]),
            ("[a-z]/*.x", ["b/1.x", "b/2.x"]),
            ("b/[1]*", ["b/1.x"]),
            ("?/2.x", ["b/2.x"]),
            ("**/*.y", ["c d/deep/6.y"]),
            ("**/[12].x", ["b/1.x", "b/2.x"]),
            ("_p=*", ["_p=1/5.x"]),
            ("b/**", ["b/1.x", "b/2.x"]),
            ("b*", ["b/1.x", "b/2.x"]),
            ("*/deep/6.y", ["c d/deep/6.y"]),
        ],
    )
    def test_globs(self, tree: Path, pattern: str, expected: list[str]) -> None:
        assert self.found(tree, pattern) == expected

    def test_glob_on_another_file_system(self, memory: fsspec.AbstractFileSystem) -> None:
        memory.pipe({"/top/a/1.x": b"1", "/top/b/2.x": b"22", "/top/b/3.y": b"3"})
        listing = discover("memory://top/*/*.x", {})
        assert [(e.origin, e.size) for e in listing.entries] == [("memory://top/a/1.x", 1), ("memory://top/b/2.x", 2)]

    def test_names_with_glob_signs_are_names_where_they_exist(self, tmp_path: Path) -> None:
        (tmp_path / "a[1]*.x").write_text("x")
        (tmp_path / "a1.x").write_text("x")
        assert self.found(tmp_path, "a[1]*.x") == ["a[1]*.x"]

    def test_what_is_remembered(self, tree: Path) -> None:
        (entry,) = discover(tree / "c d", {}).entries
        stat = (tree / "c d/deep/6.y").stat()
        assert (entry.size, entry.mtime_ns, entry.folders) == (stat.st_size, stat.st_mtime_ns, ("deep",))

    def test_refused(self, tree: Path) -> None:
        with pytest.raises(DataError, match=r"There is nothing at .*/none. Check the path"):
            discover(tree / "none", {})
        with pytest.raises(DataError, match=r"There is nothing at .*/none\*"):
            discover(f"{tree}/none*", {})
        with pytest.raises(DataError, match=r"There is nothing at .*/none/x"):
            discover(f"{tree}/none/x*/y", {})
        with pytest.raises(ConfigurationError, match="No path was given"):
            discover([], {})
        with pytest.raises(ConfigurationError, match=r"a.x is named twice"):
            discover([tree / "a.x", tree / "a.x"], {})
        with pytest.raises(ConfigurationError, match=r"b/1.x lies in .*, which is named too"):
            discover([tree, tree / "b" / "1.x"], {})


def test_hidden() -> None:
    assert [is_hidden(n) for n in ("_x", ".x", "x._COPYING_", "_x=1", "x", "x_")] == [True, True, True, False, False, False]


def test_spark_path() -> None:
    assert storage.spark_path("", "/a b/x%20[1]{2}*?\\ü") == "file:///a b/x%20\\[1\\]\\{2\\}\\*\\?\\\\ü"
    assert storage.spark_path("s3://b", "b/k*") == "s3://b/k\\*"
