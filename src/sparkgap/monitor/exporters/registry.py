"""Which exporter a spec means: a dict of lazy built-ins plus entry points of other packages."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from urllib.parse import parse_qsl

from sparkgap._errors import ConfigurationError
from sparkgap.monitor.exporters.base import Exporter

GROUP = "sparkgap.exporters"

_BUILT_IN = {
    "prometheus": "sparkgap.monitor.exporters.prometheus:PrometheusExporter",
    "graphite": "sparkgap.monitor.exporters.graphite:GraphiteExporter",
    "otlp": "sparkgap.monitor.exporters.otlp:OtlpExporter",
    "tensorboard": "sparkgap.monitor.exporters.tensorboard:TensorBoardExporter",
    "mlflow": "sparkgap.monitor.exporters.mlflow:MlflowExporter",
    "jsonl": "sparkgap.monitor.exporters.jsonl:JsonLinesExporter",
}


def names() -> list[str]:
    """Return the names of all exporters: the built-in ones, then those of other packages."""
    return [*_BUILT_IN, *(p.name for p in entry_points(group=GROUP) if p.name not in _BUILT_IN)]


def make(spec: str) -> Exporter:
    """Make the exporter that a spec means.

    Args:
        spec: ``name:target?option=value&option=value``; target and options may be left out where the exporter has a default.

    Raises:
        ConfigurationError: there is no such exporter, or its part of the spec is wrong.
        MissingDependencyError: a package that it needs is absent.
    """
    name, _, rest = spec.partition(":")
    target, options = _split(rest, spec)
    return _find(name, spec).from_spec(target, options)


def _split(rest: str, spec: str) -> tuple[str, dict[str, str]]:
    target, question, query = rest.partition("?")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(question))
    except ValueError:
        raise ConfigurationError(f"Exporter {spec!r}: what follows the question mark must be option=value&….") from None
    return target, dict(pairs)


def _find(name: str, spec: str) -> type[Exporter]:
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        built_in: type[Exporter] = getattr(importlib.import_module(module), attribute)
        return built_in
    for point in entry_points(group=GROUP):
        if point.name == name:
            found: type[Exporter] = point.load()
            return found
    raise ConfigurationError(
        f"There is no exporter {name!r} (in {spec!r}): it must be one of {', '.join(names())}, then a colon and where to, "
        'e.g. "prometheus:9108". If a package brings it, install that package on the driver.'
    )


def no_more(options: Mapping[str, str], name: str, known: str) -> None:
    """Refuse options that an exporter has not taken.

    Raises:
        ConfigurationError: some are left.
    """
    if options:
        raise ConfigurationError(f"Exporter {name} has no option {', '.join(map(repr, options))}; it has: {known or 'none'}.")


def host_and_port(target: str, name: str, *, host: str, port: int, example: str) -> tuple[str, int]:
    """Read ``host:port``, ``port`` or ``host``; an IPv6 address stands in brackets.

    Args:
        target: the text.
        name: of the exporter.
        host: the default.
        port: the default.
        example: what to write instead, for the error.

    Raises:
        ConfigurationError: the port is no number from 0 to 65535, or there are too many colons.
    """
    found, _, text = ("", "", target) if target.isdigit() else _cut(target)
    found, text = found.strip("[]") or host, text or str(port)
    if not text.isdigit() or int(text) > 65535 or ("/" in found) or (":" in found and not target.startswith("[")):
        raise ConfigurationError(f"Exporter {name}: {target!r} is not host:port. Write e.g. {example!r}.")
    return found, int(text)


def _cut(target: str) -> tuple[str, str, str]:
    if target.endswith("]") or ":" not in target:
        return target, "", ""
    return target.rpartition(":")
