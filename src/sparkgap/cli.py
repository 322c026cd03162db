"""The command line: `transform`, `explain`, `run`, `search`, `demo`, `runs`, `watch`, `ui`, over the Python API."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sparkgap import _cli_data as cli_data
from sparkgap import _cli_monitor as cli_monitor
from sparkgap import _cli_search as cli_search
from sparkgap import _cli_tasks as cli_tasks
from sparkgap import _console as console
from sparkgap._cli_data import Pair, Size

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

F = TypeVar("F", bound=Callable[..., Any])
_PROGRESS = "spark.sparkgap.monitor.progress"

_EXAMPLES = """\b
Examples:
  sparkgap transform net.onnx table.parquet scored.parquet --input x --keep id
  sparkgap transform net.onnx photos/ labels.parquet --image-size 224x224 \\
      --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --on-error skip
  sparkgap transform trees.ubj customers.csv scores.csv --input features=age,income
  sparkgap transform net.pt s3a://lake/x s3a://lake/y --format parquet --trust \\
      --master spark://host:7077 --conf spark.executor.memory=4g
"""


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 done, 1 the work failed, 2 the call or the configuration is wrong, 130 interrupted.",
)
@click.version_option(None, "--version", package_name="sparkgap", message="sparkgap %(version)s")
def cli() -> None:
    """Deep learning on Apache Spark: tables and image folders through models of every framework."""


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Put several options on a command, in reading order."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_model_options = _options(
    click.option(
        "--input",
        "inputs",
        multiple=True,
        metavar="[TENSOR=]COLUMN",
        help="What feeds the model: columns in the order of its inputs, or TENSOR=COLUMN; TENSOR=A,B,C stacks "
        "scalar columns. Default: the columns of the tensors' names.",
    ),
    click.option(
        "--output",
        "outputs",
        multiple=True,
        metavar="[TENSOR=]COLUMN",
        help="Names of the result columns, in the order of the model's outputs, or TENSOR=COLUMN.",
    ),
    click.option(
        "--keep",
        multiple=True,
        metavar="COLUMN",
        help="A column that stays; may be repeated. Default: all (of images: the path).",
    ),
    click.option(
        "--batch-size", type=click.IntRange(1), help="Rows that the model gets at a time. Default: by the bytes of a row."
    ),
    click.option(
        "--on-error",
        type=click.Choice(["raise", "null", "skip"]),
        default="raise",
        show_default=True,
        help="For rows that cannot be decoded or scored.",
    ),
    click.option(
        "--boundary",
        type=click.Choice(["auto", "rows", "files"]),
        default="auto",
        show_default=True,
        help="Whether rows go through Spark, or executors read the files by themselves.",
    ),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
    click.option(
        "--trust",
        is_flag=True,
        help="Load a model file that can run code (pickle, TorchScript …). Only for files whose origin you trust.",
    ),
    click.option(
        "--option",
        "options",
        multiple=True,
        type=Pair(),
        metavar="KEY=VALUE",
        help="An option of gap.load for this model; the value is read as JSON where it is JSON.",
    ),
)
_data_options = _options(
    click.option("--format", "form", type=click.Choice(cli_data.FORMATS), help="Format of DATA. Default: by its names."),
    click.option("--partitions", type=click.IntRange(1), help="Spread the rows over so many tasks (rows boundary)."),
    click.option("--image-size", type=Size(), metavar="HxW", help="Images: height and width that the model takes."),
    click.option("--layout", type=click.Choice(["CHW", "HWC"]), default="CHW", show_default=True, help="Images: axes."),
    click.option("--mean", type=cli_data.Floats(), metavar="M[,M,M]", help="Images: taken off the pixels (0 to 1)."),
    click.option("--std", type=cli_data.Floats(), metavar="S[,S,S]", help="Images: what they are divided by then."),
)
_spark_options = _options(
    click.option("--master", help="Spark master or Spark Connect URL (sc://host). Default: all cores of this machine."),
    click.option("--conf", multiple=True, type=Pair(), metavar="KEY=VALUE", help="A Spark setting."),
    click.option("--verbose", "-v", is_flag=True, help="Show Spark's log and full tracebacks."),
)


@cli.command(epilog=_EXAMPLES)
@click.argument("model")
@click.argument("data")
@click.argument("out")
@_model_options
@_data_options
@click.option(
    "--mode",
    type=click.Choice(["errorifexists", "overwrite", "append"]),
    default="errorifexists",
    show_default=True,
    help="If OUT is there already.",
)
@click.option(
    "--write-as",
    type=click.Choice(["parquet", "csv", "json"]),
    help="Format of OUT. Default: by its name, else parquet. In CSV, arrays are JSON text.",
)
@_spark_options
def transform(out: str, mode: str, write_as: str | None, **call: Any) -> None:
    """Apply MODEL to DATA and write the result to OUT.

    MODEL: a file or folder of any supported framework. DATA: Parquet, CSV or JSON, or a folder of images.
    """
    with _work(call) as start:
        form = write_as or cli_data.output_format(out)
        make = cli_data.prepare(**call)
        spark = start()
        import sparkgap as gap
        from sparkgap._progress import progress

        result = make(spark)
        with progress(spark):
            cli_data.write(result, out, mode, form)
        click.echo(str(gap.summary(result)), err=True)
        click.echo(f"Written to {out}")


@cli.command()
@click.argument("model")
@click.argument("data")
@_model_options
@_data_options
@_spark_options
def explain(**call: Any) -> None:
    """Say what `transform` would do with MODEL and DATA, and why: boundary, batches, threads, session."""
    with _work(call) as start:
        make = cli_data.prepare(**call)
        spark = start()
        import sparkgap as gap
        from sparkgap._session import explain_session

        click.echo(str(gap.explain(make(spark))))
        click.echo("\nsession")
        rows = explain_session(spark)
        width = max(len(row.name) for row in rows)
        for row in rows:
            click.echo(f"{row.name:{width}}  {row.value}  ({row.reason})")


@cli.command(epilog=cli_tasks.EXAMPLES)
@click.argument("function", metavar="MODULE:FUNCTION")
@click.argument("items")
@cli_tasks.options
@_spark_options
def run(**call: Any) -> None:
    """Run MODULE:FUNCTION on every line of ITEMS, each as a task of its own on the cluster.

    ITEMS: a file with one JSON value a line, or - for standard input. The function is called with one value.
    Exit code 1 where an item has no value.
    """
    call["conf"] = ((_PROGRESS, "auto"), *call["conf"])  # here the monitor draws
    good = True
    with _work(call) as start:
        good = cli_tasks.run(start, **call)
    if not good:
        sys.exit(console.FAILED)


@cli.command(epilog=cli_search.EXAMPLES)
@click.argument("config")
@cli_search.options
@_spark_options
def search(**call: Any) -> None:
    """Search for hyper-parameters as CONFIG says; each trial is a task of its own on the cluster.

    CONFIG: a TOML, JSON or YAML file. Its keys are the options of gap.search, and objective, sampler, pruner, space.
    Prints the best trial. Exit code 1 where no trial has a value.
    """
    call["conf"] = ((_PROGRESS, "auto"), *call["conf"])  # here the monitor draws
    good = True
    with _work(call) as start:
        good = cli_search.search(start, **call)
    if not good:
        sys.exit(console.FAILED)


@cli.command()
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo-output"),
    show_default=True,
    help="Folder for the results.",
)
@click.option("--open", "show", is_flag=True, help="Open the page in a browser at the end.")
@_spark_options
def demo(output: Path, show: bool, **call: Any) -> None:
    """Score photographs, digits and sentences with real models, and write one HTML page."""
    with _work(call) as start:
        from sparkgap.demo import packages, run

        packages.check()
        start()
        page = run(output).page
        if show:
            click.launch(page.as_uri())


for _command in cli_monitor.COMMANDS:
    cli.add_command(_command)


@contextlib.contextmanager
def _work(call: dict[str, Any]) -> Iterator[Callable[[], SparkSession]]:
    """Give what starts the session of a command; say in plain words what goes wrong, and exit with the code for it.

    Takes the options of the session out of `call`.
    """
    master, conf, verbose = call.pop("master"), dict(call.pop("conf")), call.pop("verbose")
    code = console.OK
    with console.spark_log(verbose) as log:
        try:
            with contextlib.ExitStack() as at_end:
                yield lambda: _session(master, conf, at_end)
        except click.ClickException:
            raise
        except (Exception, KeyboardInterrupt) as error:
            code = console.exit_code(error)
            if verbose:
                sys.excepthook(type(error), error, error.__traceback__)
            click.echo(f"sparkgap: {console.plain(error)}", err=True)
            if log is not None and code == console.FAILED:
                click.echo(f"(--verbose shows everything; Spark's log is in {log})", err=True)
    if log is not None and code != console.FAILED:
        log.unlink(missing_ok=True)
    if code != console.OK:
        sys.exit(code)


def _session(master: str | None, conf: dict[str, str], at_end: contextlib.ExitStack) -> SparkSession:
    import sparkgap as gap

    # Most commands draw a line of their own.
    spark = gap.session(master, conf={_PROGRESS: "false", **conf})
    at_end.callback(spark.stop)
    return spark


def main() -> None:
    """Entry point of the `sparkgap` command and of `python -m sparkgap`."""
    cli(prog_name="sparkgap")
