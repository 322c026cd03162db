from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import sparkgap as gap
from sparkgap._errors import ConfigurationError, MissingDependencyError, ModelFormatError, ModelProcessError
from sparkgap.models.base import Runtime
from sparkgap.models.process import ProcessPredictor, RemoteModelError, call_in_child


@contextmanager
def running(function: Callable[..., Any], **options: Any) -> Iterator[ProcessPredictor]:
    predictor = ProcessPredictor(gap.load(function).ref, Runtime(), **options)
    try:
        yield predictor
    finally:
        predictor.close()


def is_running(pid: int) -> bool:
    """Whether a process is there and not a zombie that waits for whoever adopted it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


ARRAYS = [
    np.arange(12, dtype=np.float32).reshape(3, 4),
    np.arange(24, dtype=">i4").reshape(2, 3, 4),
    np.arange(12, dtype=np.int64).reshape(3, 4)[:, ::2],
    np.array([True, False]),
    np.array([1.5, np.nan], np.float16),
    np.array([1.5, -2], ml_dtypes.bfloat16),
    np.empty((0, 3), np.uint8),
    np.empty((3, 0), np.uint8),
    np.array(["a", "b€"]),
    np.array([["a", None], ["", "b€"]], object),
    np.array([b"\xff\x00", None, b""], object),
    np.array([None, None], object),
    np.array([3, None], object),
    np.array([], object),
]


def test_arrays_come_back_as_they_were() -> None:
    with running(lambda x: {"y": x}) as predictor:
        for array in ARRAYS:
            found = predictor.predict({"x": array})["y"]
            assert found.shape == array.shape, array
            assert found.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
            assert found.flags.aligned
            np.testing.assert_array_equal(found, array)


def test_several_tensors_keep_their_names_and_order() -> None:
    with running(lambda b, a: {"sum": a + b, "text": np.array(["x"] * len(a), object), "a": a}) as predictor:
        found = predictor.predict({"a": np.array([1.0, 2.0]), "b": np.array([10.0, 20.0])})
    assert list(found) == ["sum", "text", "a"]
    assert found["sum"].tolist() == [11.0, 22.0]
    assert found["text"].tolist() == ["x", "x"]


def test_results_stay_when_the_next_block_comes() -> None:
    with running(lambda x: {"y": x}) as predictor:
        first = predictor.predict({"x": np.zeros(1000)})["y"]
        predictor.predict({"x": np.ones(1000)})
    assert not first.any()


def test_an_error_carries_type_message_and_traceback() -> None:
    def fail(x: np.ndarray) -> Any:
        raise ValueError(f"no {x[0]}")

    with running(fail) as predictor:
        with pytest.raises(RemoteModelError, match=r"^ValueError: no 7$") as caught:
            predictor.predict({"x": np.array([7])})
        assert predictor.restarts == 0
        with pytest.raises(RemoteModelError, match="no 8"):
            predictor.predict({"x": np.array([8])})
    assert caught.value.type_name == "ValueError"
    assert 'raise ValueError(f"no {x[0]}")' in caught.value.remote_traceback
    assert "in fail" in str(caught.value.__cause__)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.type_name) == ("ValueError: no 7", "ValueError")


def test_errors_of_sparkgap_and_memory_keep_their_type() -> None:
    def fail(x: np.ndarray) -> Any:
        from sparkgap._errors import ModelOutputError

        if x[0]:
            raise ModelOutputError("two of them")
        raise MemoryError("all gone")

    with running(fail) as predictor:
        with pytest.raises(gap.ModelOutputError, match=r"^two of them$"):
            predictor.predict({"x": np.array([1])})
        with pytest.raises(MemoryError, match=r"^all gone$") as caught:
            predictor.predict({"x": np.array([0])})
        assert predictor.is_out_of_memory(caught.value)


def test_a_framework_error_of_memory_becomes_a_memory_error() -> None:
    def fail(x: np.ndarray) -> Any:
        raise RuntimeError("CUDA out of memory")

    with running(fail) as predictor, pytest.raises(MemoryError, match=r"^RuntimeError: CUDA out of memory$"):
        predictor.predict({"x": np.array([1])})


def test_what_cannot_cross_is_said_and_the_child_lives() -> None:
    with running(lambda x: {"y": np.array([{1}, "a"], object)}) as predictor:
        with pytest.raises(RemoteModelError, match="TypeError: An object array holds values that cannot cross"):
            predictor.predict({"x": np.array([1])})
        with pytest.raises(TypeError, match="Give text, bytes or numbers of one type"):
            predictor.predict({"x": np.array([1, "a"], object)})
        with pytest.raises(RemoteModelError, match="cannot cross"):
            predictor.predict({"x": np.array([1])})
        assert predictor.restarts == 0


def test_a_killed_child_is_started_again_and_the_block_retried() -> None:
    with running(lambda x: {"pid": np.full(len(x), os.getpid())}) as predictor:
        first = predictor.pid
        assert predictor.predict({"x": np.zeros(2)})["pid"].tolist() == [first, first]
        os.kill(first, signal.SIGKILL)
        second = predictor.predict({"x": np.zeros(1)})["pid"].tolist()
        assert second == [predictor.pid] != [first]
        assert predictor.restarts == 1


def test_a_child_that_dies_on_a_block_once_is_healed(tmp_path: Path) -> None:
    mark = str(tmp_path / "died")

    def die_once(x: np.ndarray) -> Any:
        if not os.path.exists(mark):
            open(mark, "w").close()
            os.kill(os.getpid(), 9)
        return {"y": x}

    with running(die_once) as predictor:
        assert predictor.predict({"x": np.array([5])})["y"].tolist() == [5]
        assert predictor.restarts == 1


def test_a_child_that_always_dies_is_told_with_signal_and_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    def crash(x: np.ndarray) -> Any:
        for i in range(30):
            print("line", i)
        os.kill(os.getpid(), signal.SIGSEGV)

    with running(crash) as predictor:
        with pytest.raises(ModelProcessError, match=r"(?s)died: signal 11 \(SIGSEGV\).*Segmentation fault") as caught:
            predictor.predict({"x": np.array([5])})
        assert predictor.restarts == 1
    lines = str(caught.value).splitlines()
    assert len(lines) == 21
    assert "line 29" in str(caught.value)
    assert "line 3\n" in capfd.readouterr().err  # all of it went on to the parent's stderr


def test_an_exit_code_is_told() -> None:
    def leave(x: np.ndarray) -> Any:
        os._exit(3)

    with running(leave) as predictor, pytest.raises(ModelProcessError, match=r"the function model .* died: exit code 3"):
        predictor.predict({"x": np.array([5])})


def test_a_model_that_hangs_is_killed_at_its_deadline_and_says_where() -> None:
    def sleepy(x: np.ndarray) -> Any:
        import time

        time.sleep(60 * x[0])
        return {"y": x}

    with running(sleepy, timeout=1.0) as predictor:
        pid = predictor.pid
        with pytest.raises(ModelProcessError, match=r"(?s)did not answer `predict` within 1 s and was killed.* in sleepy"):
            predictor.predict({"x": np.array([1])})
        assert not is_running(pid)
        assert predictor.predict({"x": np.array([0])})["y"].tolist() == [0]
        assert predictor.restarts == 1


def test_errors_of_loading_keep_their_type(tmp_path: Path) -> None:
    ref = gap.load(lambda x: x).ref
    (Path(ref.path) / "function.pkl").unlink()
    with pytest.raises(RemoteModelError, match=r"FileNotFoundError: .*function\.pkl"):
        ProcessPredictor(ref, Runtime())
    gone = pickle.loads(pickle.dumps(ref))
    object.__setattr__(gone, "path", str(tmp_path / "gone"))
    with pytest.raises(ModelFormatError, match="is neither at"):
        ProcessPredictor(gone, Runtime())


def test_the_timeout_of_the_environment_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    ref = gap.load(lambda x: x).ref
    monkeypatch.setenv("SPARKGAP_MODEL_PROCESS_TIMEOUT", "soon")
    with pytest.raises(ConfigurationError, match="SPARKGAP_MODEL_PROCESS_TIMEOUT is 'soon'; it must be a number"):
        ProcessPredictor(ref, Runtime())


def test_close_ends_the_child_and_predict_starts_another() -> None:
    with running(lambda x: {"y": x}) as predictor:
        pid = predictor.pid
        predictor.close()
        predictor.close()
        assert predictor.pid is None
        assert not is_running(pid)
        assert predictor.predict({"x": np.array([1])})["y"].tolist() == [1]


def test_the_child_outlives_the_thread_that_started_it() -> None:
    found: list[ProcessPredictor] = []
    ref = gap.load(lambda x: {"y": x}).ref
    thread = threading.Thread(target=lambda: found.append(ProcessPredictor(ref, Runtime())))
    thread.start()
    thread.join()
    assert found[0].predict({"x": np.array([1])})["y"].tolist() == [1]
    assert found[0].restarts == 0
    found[0].close()


def test_a_busy_child_dies_with_its_parent(tmp_path: Path) -> None:
    def stuck(x: np.ndarray) -> Any:
        print("busy", flush=True)
        threading.Event().wait(60)

    # only the kernel can tell a child that is busy: it does not look at its stream
    code = """
        threading.Thread(target=predictor.predict, args=({"x": np.zeros(1)},), daemon=True).start()
        os.read(log, 1)
        os.kill(os.getpid(), 9)
    """
    assert_dies(run_parent(stuck, code, tmp_path))


@pytest.mark.parametrize("end", ["sys.exit(0)", "raise ValueError", "os._exit(1)"])
def test_an_idle_child_dies_with_its_parent(end: str, tmp_path: Path) -> None:
    assert_dies(run_parent(lambda x: {"y": x}, end, tmp_path))


def run_parent(function: Callable[..., Any], code: str, folder: Path) -> int:
    """Start a model in the child of another process, run code in that process and return the pid of the child."""
    ref = folder / "ref.pkl"
    ref.write_bytes(pickle.dumps(gap.load(function).ref))
    before = f"""
        import os, pickle, sys, threading
        import numpy as np
        from sparkgap.models.base import Runtime
        from sparkgap.models.process import ProcessPredictor
        log, ours = os.pipe()
        os.dup2(ours, 2)  # where the child's prints go on to
        predictor = ProcessPredictor(pickle.load(open({str(ref)!r}, "rb")), Runtime())
        print(predictor.pid, flush=True)
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", textwrap.dedent(before) + textwrap.dedent(code)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    return int(done.stdout)


def assert_dies(pid: int) -> None:
    pause = threading.Event()
    assert any(not is_running(pid) or pause.wait(0.05) for _ in range(60)), "it lives on for 3 s"


def test_the_child_gets_device_and_threads_and_the_parents_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "helper_of_this_test.py").write_text("def value(): return 42")
    monkeypatch.syspath_prepend(str(tmp_path))

    def look(x: np.ndarray) -> Any:
        import helper_of_this_test

        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        return {"y": np.array([helper_of_this_test.value(), *(int(os.environ[n]) for n in names)])}

    predictor = ProcessPredictor(gap.load(look).ref, Runtime(threads=3))
    assert predictor.predict({"x": np.array([1])})["y"].tolist() == [42, 3, 3, 3]
    predictor.close()


def test_a_cache_drops_a_predictor_whose_process_it_should_not_keep() -> None:
    from sparkgap.models import cache

    made = cache.ModelCache(1 << 20)
    ref = gap.load(lambda x: {"y": x}).ref
    predictor = ProcessPredictor(ref, Runtime())
    made._entries[("d", Runtime())] = cache._Entry(predictor, 1)
    made.forget(predictor)
    assert predictor.pid is None


def test_call_in_child_returns_json_and_keeps_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call_in_child("json:loads", s='{"a": [1, null]}') == {"a": [1, None]}
    with pytest.raises(RemoteModelError, match=r"^json\.decoder\.JSONDecodeError: Expecting value"):
        call_in_child("json:loads", s="")
    with pytest.raises(MissingDependencyError, match=r"Package `nothing_like_it` is needed to test, .*'sparkgap\[x\]'"):
        call_in_child("sparkgap._optional:need", module="nothing_like_it", extra="x", why="to test")
    (tmp_path / "slow_module.py").write_text("import time\ndef rest(seconds): time.sleep(seconds)")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModelProcessError, match=r"a call of slow_module:rest did not answer `call` within 0\.5 s"):
        call_in_child("slow_module:rest", timeout=0.5, seconds=20)
