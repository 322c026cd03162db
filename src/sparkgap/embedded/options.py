"""Options of the embedded pattern, as small frozen values."""

from __future__ import annotations

from dataclasses import dataclass

from sparkgap._errors import ConfigurationError

POLICIES = ("raise", "null", "skip")
BOUNDARIES = ("auto", "rows", "files")


@dataclass(frozen=True)
class Batching:
    """How rows are grouped for the model.

    Args:
        size: rows a batch; the model gets exactly so many each time, but for the last batch of a partition.
            None picks a size by the bytes of one row (about 8 MiB a batch).
        prefetch: batches that are read and decoded ahead, in a thread of their own, while the model runs.

    Raises:
        ConfigurationError: a number is not a whole number >= 1.
    """

    size: int | None = None
    prefetch: int = 2

    def __post_init__(self) -> None:
        for name, value in (("size", self.size), ("prefetch", self.prefetch)):
            if name == "size" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigurationError(f"Batching {name} is {value!r}; it must be a whole number >= 1.")

    @classmethod
    def of(cls, value: int | Batching | None) -> Batching:
        """Promote a plain batch size."""
        return value if isinstance(value, Batching) else cls(value)


@dataclass(frozen=True)
class Sampling:
    """What to look at while a transform runs: it appears in the gallery of the page.

    Args:
        rows: rows of the first batch of each task that are shown, decoded, with their outputs; 0 for none.
        layers: names of layers whose activations on these rows are shown as histograms: of PyTorch modules and Keras
            models by their names, of ONNX models by the names of tensors.

    Raises:
        ConfigurationError: `rows` is not a whole number from 0 to 100, or there are layers and no rows.
    """

    rows: int = 0
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.rows, int) or isinstance(self.rows, bool) or not 0 <= self.rows <= 100:
            raise ConfigurationError(f"sample is {self.rows!r}; it must be a whole number of rows, 0 to 100.")
        if self.layers and not self.rows:
            raise ConfigurationError(
                "Sampling has layers and no rows; say how many rows are to be shown: Sampling(4, layers=…)."
            )

    @classmethod
    def of(cls, value: int | Sampling) -> Sampling:
        """Promote a plain number of rows."""
        return value if isinstance(value, Sampling) else cls(value)


@dataclass(frozen=True)
class OnError:
    """What to do with a row that cannot be decoded or scored.

    Args:
        policy: ``"raise"`` fails the job and names the row; ``"null"`` keeps the row with null outputs;
            ``"skip"`` leaves the row out. Both of the latter are counted in the run's summary.
        column: with ``"null"``: name of a string column that tells why, null for good rows.
        nan: ``"allow"`` passes NaN inputs to the model; ``"error"`` makes a row with a NaN a bad row.

    Raises:
        ConfigurationError: a value is none of these.
    """

    policy: str = "raise"
    column: str | None = None
    nan: str = "allow"

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ConfigurationError(f"on_error is {self.policy!r}; it must be one of {', '.join(POLICIES)}.")
        if self.nan not in ("allow", "error"):
            raise ConfigurationError(f"OnError nan is {self.nan!r}; it must be 'allow' or 'error'.")
        if self.column is not None and self.policy != "null":
            raise ConfigurationError(
                f"OnError column {self.column!r} goes with policy 'null'; got policy {self.policy!r}, which leaves "
                "no row to write a reason on."
            )

    @classmethod
    def of(cls, value: str | OnError) -> OnError:
        """Promote a plain policy name."""
        return value if isinstance(value, OnError) else cls(value)


def check_boundary(boundary: str) -> str:
    """Return the boundary if it is one.

    Raises:
        ConfigurationError: it is none of the known names.
    """
    if boundary not in BOUNDARIES:
        raise ConfigurationError(f"boundary is {boundary!r}; it must be one of {', '.join(BOUNDARIES)}.")
    return boundary
