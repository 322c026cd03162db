"""The page's routes. Everything it tells comes from the store; the one thing it can do is to end a run."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from sparkgap.monitor.store import Store
from sparkgap.monitor.web.guard import Guard
from sparkgap.monitor.web.past import Runs
from sparkgap.monitor.web.plain import finite
from sparkgap.monitor.web.stream import changes
from sparkgap.monitor.web.view import artifact, run_view

STATIC = Path(__file__).parent / "static"
MEDIA = ("image/png", "application/json", "text/plain; charset=utf-8")
"""What `monitor.shown` makes; nothing else that calls itself an artifact is given to a browser."""


def create_app(store: Store, *, token: str, hosts: Collection[str] = ()) -> Starlette:
    """Return the application that serves the page.

    Args:
        store: the runs.
        token: the secret that visitors must know.
        hosts: names besides loopback that requests may be addressed to; ``"*"`` for any.
    """
    app = Starlette(
        routes=[
            Route("/", _page),
            Route("/api/runs", _runs),
            Route("/api/runs/{run}", _run),
            Route("/api/runs/{run}/stop", _stop, methods=["POST"]),
            Route("/api/runs/{run}/artifacts/{number:int}", _artifact),
            Route("/api/stream", _stream),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=[Middleware(Guard, token=token, hosts=hosts)],
    )
    app.router.redirect_slashes = False
    app.state.store = store
    app.state.runs = Runs(store)
    app.state.closing = False
    return app


async def _page(request: Request) -> Response:
    return FileResponse(STATIC / "index.html", media_type="text/html")


async def _runs(request: Request) -> Response:
    runs: Runs = request.app.state.runs
    return JSONResponse(finite({"runs": await run_in_threadpool(runs.lines)}))


async def _run(request: Request) -> Response:
    runs: Runs = request.app.state.runs
    found = await run_in_threadpool(runs.read, request.path_params["run"], run_view)
    return JSONResponse(finite(found)) if found is not None else _absent("There is no such run.")


async def _stop(request: Request) -> Response:
    if request.headers.get("x-requested-by") != "sparkgap":  # a form of another site cannot set a header
        return JSONResponse({"error": "Only the page itself may ask for this."}, 403)
    runs: Runs = request.app.state.runs
    stopped = await run_in_threadpool(runs.stop, request.path_params["run"])
    return JSONResponse({"stopped": True}) if stopped else _absent("This run has ended, or cannot be ended from here.")


async def _artifact(request: Request) -> Response:
    runs: Runs = request.app.state.runs
    run, number = request.path_params["run"], request.path_params["number"]
    found = await run_in_threadpool(runs.read, run, lambda state: artifact(state, number))
    if found is None:
        return _absent("It is not kept any more.")
    if found.media not in MEDIA:
        return JSONResponse({"error": f"The page does not show {found.media[:100]}."}, 415)
    place = "inline" if found.media.startswith("image/") else "attachment"
    name = quote(f"{run}-{number}", safe="-")
    headers = {"Content-Disposition": f"{place}; filename*=UTF-8''{name}"}
    return Response(found.data, headers=headers, media_type=found.media)


async def _stream(request: Request) -> Response:
    state = request.app.state

    async def gone() -> bool:
        return state.closing or await request.is_disconnected()

    told = changes(state.store, state.runs, request.query_params.get("run", ""), gone)
    return StreamingResponse(told, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


def _absent(text: str) -> Response:
    return JSONResponse({"error": text}, 404)
