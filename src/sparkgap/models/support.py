"""The support table, made from what the adapters say of themselves: `python -m sparkgap.models.support`."""

from __future__ import annotations

from sparkgap.models.base import Format, ModelAdapter
from sparkgap.models.registry import adapters

_HEAD = """\
# What `gap.load` takes

Made from the adapters by `python -m sparkgap.models.support > docs/support.md`; a test checks that it is up to date.

**Signature**: *read* from the format; *found* by running one row of the data on the driver, or given with `signature=`;
*given* only. **Trust**: whether loading a file can run code that is in it, so that `trust=True` is needed. **GPU**: whether
`device=` may be one. **Process**: whether the model takes a Python worker for itself; another such model then gets a child
process of its own. No GPU was at hand for the tests so far: what is tested of `device=` is the choice and the errors. Every
row works with `transform` on both boundaries and with `udf`, on classic Spark and Spark Connect.

| framework | install | source | format | signature | trust | GPU | process |
|---|---|---|---|---|---|---|---|
"""


def support_table() -> str:
    """Return the table as Markdown."""
    known = adapters().values()
    rows = "".join(_row(adapter, form) for adapter in known for form in adapter.formats)
    options = "".join(_options(adapter) for adapter in known if adapter.options)
    return f"{_HEAD}{rows}\n## Options of `gap.load`\n{options}"


def _row(adapter: ModelAdapter, form: Format) -> str:
    extra = f"`sparkgap[{adapter.extra}]`" if adapter.extra else "nothing more"
    own = "own" if type(adapter).family is not ModelAdapter.family else "shared"
    cells = (
        adapter.title, extra, form.source, f"`{form.name}`", form.signature, _yes(form.runs_code), _yes(adapter.gpu), own,
    )  # fmt: skip
    return f"| {' | '.join(cells)} |\n"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _options(adapter: ModelAdapter) -> str:
    lines = "".join(f"- `{name}`: {text}\n" for name, text in adapter.options.items())
    return f"\n**{adapter.title}**\n\n{lines}"


if __name__ == "__main__":
    print(support_table(), end="")
