"""An engine without Spark: tasks are threads, and questions are answered as the runner answers them, one at a time."""

from __future__ import annotations

import json
import pickle
import queue
import threading
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest

from sparkgap._errors import TaskError
from sparkgap.scheduled import asking
from sparkgap.scheduled.outcome import Ending
from sparkgap.tuning import api

optuna.logging.set_verbosity(optuna.logging.WARNING)
_here = threading.local()


class Engine:
    """Runs trials in threads. All that the runner's thread does in a real run is done in one thread here too."""

    def __init__(self, fn, items, *, parallel, told, asked, on_error, **options):
        self.fn, self.items, self.parallel = fn, items, parallel or 4
        self.told, self.asked, self.on_error, self.options = told, asked, on_error, options
        self.error, self.over = None, False
        self.news: queue.Queue = queue.Queue()
        self.thread = threading.Thread(target=self._run)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exception):
        self.over = True
        self.news.put(None)
        self.thread.join()

    def wait(self):
        self.thread.join()

    def _run(self):
        try:
            with ThreadPoolExecutor(1) as feeder:  # items come from a thread of their own, as in a run
                self._loop(feeder)
        except BaseException as error:
            self.error = error

    def _loop(self, feeder):
        running, dry = 0, False
        while not self.over:
            while running < self.parallel and not dry:
                number = feeder.submit(next, self.items, None).result()
                dry = number is None
                if not dry:
                    running += 1
                    threading.Thread(target=self._task, args=(number,), daemon=True).start()
            if not running:
                return
            news = self.news.get(timeout=60)
            if news is None:
                return
            number, question, reply = news
            if isinstance(question, Ending):
                running -= 1
                self.told(number, question)
                if question.kind != "ok" and self.on_error == "raise":
                    raise TaskError(question.texts["message"], number, question.kind, question.texts["error"])
            else:
                reply.put(json.dumps(self.asked(number, json.loads(json.dumps(question)))))

    def _task(self, number):
        def put(question, wanted, timeout):
            reply: queue.Queue = queue.Queue()
            self.news.put((number, dict(question), reply))
            return json.loads(reply.get(timeout=60)) if wanted else None

        _here.put = put
        try:
            ending = Ending("ok", pickle.dumps(self.fn(number)))
        except Exception as error:
            texts = {"error": type(error).__name__, "message": str(error), "traceback": traceback.format_exc()}
            ending = Ending("exception", texts=texts | {"output": "what it printed", "host": "here"})
        self.news.put((number, ending, None))


@pytest.fixture(autouse=True)
def engine(monkeypatch):
    """Put the engine in place of Spark; gives the list of those that were started."""
    started: list[Engine] = []

    def launch(spark, task, conductor, **options):
        started.append(Engine(task, conductor.numbers(), told=conductor.told, asked=conductor.asked, **options))
        return started[-1]

    monkeypatch.setattr(api, "_launch", launch)
    asking.connect(lambda *question: _here.put(*question))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # among them Optuna's
        yield started
    asking.connect(None)
