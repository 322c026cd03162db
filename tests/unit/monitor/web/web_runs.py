"""Runs made of events, as executors would tell them."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from sparkgap.monitor import events
from sparkgap.monitor.events import Event, Task
from sparkgap.monitor.shown import prepare
from sparkgap.monitor.stats import TaskStats
from sparkgap.monitor.store import Store

TRACEBACK = """Traceback (most recent call last):
  File "/opt/app/worker.py", line 88, in score
    outputs = model(batch)
  File "/opt/app/net.py", line 41, in forward
    return self.head(features.view(-1, 1280))
RuntimeError: shape '[-1, 1280]' is invalid for input of size 98304
"""


def stats(task: Task, rows: int, seconds: float, **more: Any) -> dict[str, Any]:
    """Return the counters of an attempt that spends most of its time in the model."""
    shares = {"load": 0.04, "starved": 0.17, "model": 0.68, "encode": 0.05, "write": 0.03, "read": 0.11, "decode": 0.06}
    made = TaskStats(
        task.stage, task.partition, task.attempt, rows_in=rows, rows_out=rows, bytes_in=rows * 3136, bytes_out=rows * 40,
        batches=max(1, rows // 256), batch_rows=256, model_loads=1, seconds={p: s * seconds for p, s in shares.items()},
        **more,
    )  # fmt: skip
    made.latency[4:8] = [rows // 4000, rows // 700, rows // 1300, rows // 9000]
    return made.to_dict()


class Making:
    """Says the events of one run into a store."""

    def __init__(
        self, store: Store, run: str, began: float, name: str = "efficientnet-lite0", kind: str = "transform", **details: str
    ) -> None:
        self.store, self.run, self.began = store, run, began
        self.say(events.RunStarted(run=run, time=began, kind=kind, name=name, details=details))

    def say(self, event: Event) -> None:
        self.store.say(event)

    def stage(self, count: int, done: bool = False, stage: int = 3) -> None:
        self.say(events.StageTasks(run=self.run, time=self.began, stage=stage, count=count, done=done))

    def start(self, task: Task, at: float, host: str = "worker-1") -> None:
        self.say(events.TaskStarted(run=self.run, time=self.began + at, task=task, host=host, pid=4000 + task.attempt, cpus=1))

    def progress(self, task: Task, at: float, rows: int, seconds: float, phase: str = "scoring", **more: Any) -> None:
        now = self.began + at
        self.say(events.Phase(run=self.run, time=now, task=task, name=phase))
        self.say(
            events.Progress(
                run=self.run,
                time=now,
                task=task,
                stats=stats(task, rows, seconds, **more),
                cpu_seconds=0.93 * seconds,
                rss=612 << 20,
            )
        )

    def end(self, task: Task, at: float, rows: int, seconds: float, ok: bool = True, **more: Any) -> None:
        self.say(
            events.TaskEnded(
                run=self.run, time=self.began + at, task=task, ok=ok, stats=stats(task, rows, seconds, **more),
                cpu_seconds=0.93 * seconds, rss=655 << 20,
            )
        )  # fmt: skip

    def fail(self, task: Task, at: float, message: str, error: str = "RuntimeError", traceback: str = TRACEBACK) -> None:
        now = self.began + at
        self.say(events.Failure(run=self.run, time=now, task=task, error=error, message=message, traceback=traceback))

    def log(self, task: Task | None, at: float, text: str, level: str = "INFO", logger: str = "app.score") -> None:
        self.say(events.Log(run=self.run, time=self.began + at, task=task, level=level, logger=logger, text=text))

    def metric(self, task: Task, name: str, values: list[float], begin: float, step: float) -> None:
        points = tuple((self.began + begin + i * step, float(i), v) for i, v in enumerate(values))
        self.say(events.Metrics(run=self.run, time=points[-1][0], task=task, names=(name,), points=points))

    def show(self, task: Task, at: float, name: str, value: Any, kind: str | None = None, step: int | None = None) -> None:
        made = prepare(value, kind)
        self.say(
            events.Artifact(
                run=self.run, time=self.began + at, task=task, name=name, kind=made.kind, media=made.media, data=made.data,
                step=step, caption=made.caption,
            )
        )  # fmt: skip


RANGES: dict[str, dict[str, Any]] = {
    "learning_rate": {"low": 1e-5, "high": 0.1, "log": True}, "layers": {"low": 1, "high": 8, "log": False},
    "optimizer": {"choices": ["adam", "sgd", "rmsprop"]}, "momentum": {"low": 0.0, "high": 0.99, "log": False},
    "batch_size": {"choices": [16, 32, 64, 128, 256]}, "dropout": {"low": 0.0, "high": 0.6, "log": False},
}  # fmt: skip


def searching(store: Store, count: int = 120, run: str = "20260802-091500-5e6f7a8b", objectives: int = 1) -> Making:
    """A search under way: complete, pruned, failed and running trials; `momentum` is a parameter of one optimizer only."""
    direction = "minimize" if objectives == 1 else "minimize, maximize"
    began = time.time() - 3 * count - 20
    made = Making(store, run, began, "train_resnet", "search", study="resnet-cifar", direction=direction, parallel="4")
    made.stage(4)
    for slot in range(4):
        task = Task(3, slot, slot)
        made.start(task, 0.5, f"worker-{1 + slot // 2}")
        shares = {"read": 0.02, "model": 0.98}
        told = TaskStats(3, slot, slot, rows_in=count // 4, rows_out=count // 4, batches=count // 4, batch_rows=1).to_dict()
        told |= {"seconds": {p: s * 3 * count for p, s in shares.items()}}
        now = began + 3 * count
        store.say(events.Progress(run=run, time=now, task=task, stats=told, cpu_seconds=3.0 * count, rss=900 << 20))
    random = np.random.default_rng(7)
    for number in range(count):
        _trial(made, number, random, objectives, running=number >= count - 4)
    return made


def _trial(made: Making, number: int, random: np.random.Generator, objectives: int, running: bool) -> None:
    near = min(0.85, number / 150)  # a sampler comes nearer to what is good
    rate = 10 ** float(random.normal(-2.4, 0.25) if random.uniform() < near else random.uniform(-5, -1))
    params: dict[str, Any] = {
        "learning_rate": min(0.1, max(1e-5, rate)), "layers": int(random.integers(1, 9)),
        "optimizer": str(random.choice(["adam", "sgd", "rmsprop"], p=[0.5, 0.3, 0.2])),
        "batch_size": int(random.choice([16, 32, 64, 128, 256])), "dropout": float(random.uniform(0, 0.6)),
    }  # fmt: skip
    if params["optimizer"] == "sgd":
        params["momentum"] = float(random.uniform(0, 0.99))
    loss = 0.08 + 0.12 * (math.log10(params["learning_rate"]) + 2.4) ** 2 + 0.02 * abs(params["layers"] - 5)
    loss += 0.2 * (params["dropout"] - 0.2) ** 2 + float(random.exponential(0.015))
    begin, seconds = made.began + 3 * number, float(random.uniform(6, 14))
    about = {"run": made.run, "number": number, "started": begin, "params": params}
    ranges = {name: RANGES[name] for name in params}
    made.say(events.Trial(time=begin, distributions=ranges, report=(3.0, loss * 1.6) if running else None, **about))
    if running:
        return
    end: dict[str, Any] = {"state": "complete", "values": (loss, params["layers"] * 1.5 + loss)[:objectives]}
    if number % 17 == 11:
        end = {"state": "failed", "note": "RuntimeError: CUDA out of memory. Tried to allocate 2.20 GiB"}
    elif objectives == 1 and loss > 0.3 and number % 3:
        end, seconds = {"state": "pruned", "values": (loss * 1.3,), "report": (4.0, loss * 1.3)}, seconds / 4
    made.say(events.Trial(time=begin + seconds, seconds=seconds, **about, **end))


def pictures(count: int, seed: int = 1) -> np.ndarray:
    """Return soft coloured discs, one a picture: uint8 of shape (count, 96, 96, 3)."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:96, 0:96]
    made = np.empty((count, 96, 96, 3), np.float64)
    for picture in made:
        picture[:] = random.uniform(0.75, 0.95, 3)
        for _ in range(4):
            cx, cy, r = random.uniform((15, 15, 8), (80, 80, 26))
            inside = 1 / (1 + np.exp((np.hypot(x - cx, y - cy) - r) / 1.2))
            picture[:] = picture * (1 - inside[..., None]) + random.uniform(0.1, 0.9, 3) * inside[..., None]
    return (made * 255).astype(np.uint8)


def rich(store: Store, run: str = "20260801-101500-1a2b3c4d", began: float | None = None) -> Making:
    """A run under way with everything: ten tasks of sixteen done, one failed and retried, one lost, metrics, pictures."""
    began = time.time() - 63 if began is None else began
    details = {
        "boundary": "files", "slots": "4", "model": "efficientnet-lite0 (ONNX)", "batch size": "256", "device": "cpu",
        "threads": "1", "inputs": "image ← content (224 x 224)", "outputs": "label, score",
    }  # fmt: skip
    made = Making(store, run, began, **details)
    made.stage(16)
    attempt = 40
    free = {("worker-1", 0): 0.4, ("worker-1", 1): 0.6, ("worker-2", 0): 1.1, ("worker-2", 1): 1.3}
    todo = list(range(16))
    random = np.random.default_rng(4)
    while todo and min(free.values()) < 58:
        slot = min(free, key=lambda k: free[k])
        partition, attempt = todo.pop(0), attempt + 1
        task, begin = Task(3, partition, attempt), free[slot]
        last = begin + float(random.uniform(12.5, 17.5))
        made.start(task, begin, slot[0])
        if partition in (2, 5) and not any(t == partition for t in todo) and attempt < 48:
            last = begin + 5.5
            made.progress(task, 5.5 + begin, 3100, 5.3)
            if partition == 2:
                made.fail(task, last, "shape '[-1, 1280]' is invalid for input of size 98304")
                made.end(task, last, 3100, 5.3, ok=False)
            else:
                store.say(events.Progress(run=run, time=began + last, task=task, stats=stats(task, 2800, 5.3)))
                with store.reading(run) as state:
                    assert state is not None
                    state.lose(task, began + last)
            todo.insert(2, partition)
        elif last < 62:
            bad = {
                "skipped": 3,
                "reasons": {"not an image": 3},
                "examples": [f"part-{partition:05d}.parquet row 71: not an image"],
            }
            made.end(task, last, int(620 * (last - begin)), last - begin, **(bad if partition % 4 == 1 else {}))
        else:
            made.progress(task, 62, int(620 * (62 - begin)), 62 - begin)
        count = int((min(last, 62) - begin) * 4)
        decay = [2.3 * math.exp(-i / 22) + 0.35 + float(random.normal(0, 0.03)) for i in range(count)]
        made.metric(task, "loss", decay, begin, 0.25)
        made.metric(task, "confidence", [1 - v / 3.2 for v in decay], begin, 0.25)
        made.log(task, begin, f"scoring part-{partition:05d}.parquet")
        free[slot] = last + 0.15
    _shown(made, Task(3, 11, attempt - 1))
    made.log(Task(3, 1, 42), 31.0, "3 rows are no images and are skipped", "WARNING", "sparkgap")
    made.log(Task(3, 2, 43), 6.5, "batch failed: shape '[-1, 1280]' is invalid for input of size 98304", "ERROR")
    made.log(None, 62.0, "12 of 16 parts written", "PRINT", "stdout")
    return made


def _shown(made: Making, task: Task) -> None:
    random = np.random.default_rng(9)
    rows = [
        {"image": f"img_{i:04d}.jpg", "label": n, "score": round(0.97 - i * 0.07, 3)}
        for i, n in enumerate(("fox", "otter", "heron", "lynx"))
    ]
    made.show(task, 55, "predictions", rows, step=3)
    made.show(task, 55, "features.7 activations", random.gamma(2.0, 0.6, (64, 1280)), "histogram", step=3)
    made.show(task, 56, "logits", random.normal(0, 2.2, (256, 1000)).astype(np.float32), step=3)
    for step in (1, 2, 3):
        made.show(task, 50 + step, "batch", pictures(9, step), step=step)
