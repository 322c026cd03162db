"""`sparkgap runs`, `watch` and `ui`: looking at runs, live and past, from another process than the one that works."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from sparkgap.monitor.store import Store

_folder = click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of runs. Default: SPARKGAP_RUNS, else sparkgap/runs in the user's folder for state.",
)
_WATCH_EVERY = 0.5
_RECENT = 3600.0


@click.command()
@_folder
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="How many, newest first.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for programs.")
def runs(folder: Path | None, limit: int, as_json: bool) -> None:
    """List the latest runs: when, how long, how much, and what limited them."""
    import json

    from sparkgap.monitor.records import table
    from sparkgap.monitor.verdict import unit_of

    rows = table(_store(folder), limit).to_pylist()
    if as_json:
        for row in rows:
            click.echo(json.dumps(row, default=str))
        return
    if not rows:
        click.echo("No runs yet. A run begins with the first action on what gap.transform returned.")
        return
    for row in rows:
        head = f"{row['run']}  {row['status']:8}{row['name']}"
        retries = f", {row['retries']} retries" if row["retries"] else ""
        done = f"{row['rows_out']:,} {unit_of(row['kind'])}"
        click.echo(f"{head}: {done} in {row['seconds']:.1f} s, {row['tasks']} tasks{retries}")
        if row["limit"]:
            click.echo(f"    {row['verdict']}")


@click.command()
@click.argument("run", default="latest")
@_folder
def watch(run: str, folder: Path | None) -> None:
    """Follow a RUN of another process until it is over: an id or the beginning of one; default the latest.

    Exit code 0 where it ended well, 1 where it failed, 2 where there is no such run.
    """
    from rich.console import Console

    from sparkgap.monitor.hub import Follower
    from sparkgap.monitor.summary import of_state
    from sparkgap.monitor.terminal import Display, Line

    store = _store(folder)
    chosen = _find(store, run)
    follower = Follower(store, _path(folder))
    follower.follow(chosen)
    follower.look()
    console = Console(stderr=True)
    display = Display(store, console) if console.is_terminal else None
    try:
        while True:
            version = store.version
            with store.reading(chosen) as state:
                line = Line.of(state) if state is not None else None
                if state is not None and line is not None and line.status != "running":
                    click.echo(str(of_state(state)))
                    break
            store.wait(version, _WATCH_EVERY)
    finally:
        follower.close()
        if display is not None:
            display.close()
    sys.exit(0 if line.status in ("done", "stopped") else 1)


@click.command()
@click.argument("folder", required=False, type=click.Path(file_okay=False, path_type=Path))
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port of the page. Default: any free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--open", "show", is_flag=True, help="Open the page in a browser.")
def ui(folder: Path | None, port: int, host: str, show: bool) -> None:
    """Serve the web page over the runs in FOLDER, live and past, until interrupted."""
    from sparkgap._errors import SparkGapError
    from sparkgap.monitor.hub import Follower
    from sparkgap.monitor.web.server import serve

    store = _store(folder)
    follower = Follower(store, _path(folder), recent=_RECENT)
    try:
        page = serve(store, host=host, port=port)
    except SparkGapError as error:
        raise click.UsageError(str(error)) from None
    click.echo(f"{page.url}  (Ctrl-C ends it)")
    if show:
        click.launch(page.url)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        click.echo()
    finally:
        page.close()
        follower.close()


COMMANDS = (runs, watch, ui)


def _path(folder: Path | None) -> Path:
    from sparkgap._folders import runs_folder

    return folder or runs_folder()


def _store(folder: Path | None) -> Store:
    from sparkgap.monitor.history import History
    from sparkgap.monitor.store import Store

    return Store(History(_path(folder)))


def _find(store: Store, run: str) -> str:
    """Return the one run that is meant."""
    known = store.history.runs() if store.history is not None else []
    if run == "latest" and known:
        return known[-1]
    found = [r for r in known if r.startswith(run)]
    if run in known:
        return run
    if len(found) == 1:
        return found[0]
    if not found:
        raise click.UsageError(f"There is no run {run!r}; `sparkgap runs` lists those that are there.")
    raise click.UsageError(f"{run!r} is the beginning of {len(found)} runs: {', '.join(found[:5])}.")
