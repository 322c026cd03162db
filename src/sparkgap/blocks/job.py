"""What all verbs begin with: a program, the table it works on, and the columns that feed it. Driver side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparkgap._errors import ConfigurationError
from sparkgap.blocks.inputs import plan_inputs
from sparkgap.blocks.probing import Trial, run_here, try_out
from sparkgap.blocks.program import NOTHING, as_model, is_model, name_of
from sparkgap.blocks.subject import Subject
from sparkgap.embedded.plan import Input
from sparkgap.models.model import Model
from sparkgap.tensors.encode import arrow_type
from sparkgap.tensors.spec import Block, TensorSpec


@dataclass(frozen=True)
class Job:
    """A program and its input.

    Args:
        name: of the program, for people.
        model: the program, packed.
        is_model: whether it is a model of a framework, not a function.
        subject: the table.
        inputs: the program's parameters and what feeds them.
    """

    name: str
    model: Model
    is_model: bool
    subject: Subject
    inputs: tuple[Input, ...]

    @staticmethod
    def of(
        program: Any,
        data: Any,
        feed: Mapping[str, Any] | None,
        framework: str | None,
        *,
        block: bool,
        default: Callable[[Sequence[str], Subject], Mapping[str, Any]] | None = None,
    ) -> Job:
        """Pack a program and pair its parameters with columns.

        Args:
            program: a function or a model.
            data: the table; a `Subject` stays as it is.
            feed: the user's.
            framework: whose tensors a function takes.
            block: whether all cells of a block must have one shape.
            default: tells of parameters which columns feed them, where they are not of the same name.
        """
        subject = data if isinstance(data, Subject) else Subject.of(data)
        model = as_model(program, framework)
        names = [s.name for s in model.signature.inputs]
        if names == [NOTHING] and not (feed and NOTHING in feed) and NOTHING not in subject.types:
            subject = subject.with_values(NOTHING)
        if default is not None:
            feed = {**default(names, subject), **(feed or {})}
        inputs = plan_inputs(model.signature, feed, subject.types, subject.shapes, block=block)
        return Job(name_of(program), model, is_model(program), subject, inputs)

    @property
    def takes_nothing(self) -> bool:
        """Whether the program has no parameter."""
        return [i.spec.name for i in self.inputs] == [NOTHING]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the user's table."""
        return tuple(n for n in self.subject.types if n != NOTHING or not self.takes_nothing)

    def tried(self, adapt: Callable[[Trial], Trial] = lambda run: run) -> tuple[Block, Block]:
        """Run the program on a small block, here; see `try_out`."""
        return try_out(adapt(run_here(self.model)), self.inputs, lambda: self.subject.sample(self.inputs))

    def declared(self, schema: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        """Return the outputs that the user declares.

        Raises:
            ConfigurationError: one is no spec, its dtype or rank is open, or two have the same name.
        """
        specs = tuple(schema)
        for spec in specs:
            if not isinstance(spec, TensorSpec) or not spec.complete:
                raise ConfigurationError(
                    f"schema has {spec!r}; it must be a list of gap.TensorSpec with name, dtype and the shape "
                    "of one row, e.g. "
                    '[gap.TensorSpec("z", "float64", ())].'
                )
        if not specs or len({s.name for s in specs}) < len(specs):
            raise ConfigurationError(f"schema must name one or more different outputs; got {[s.name for s in specs]}.")
        return specs

    def refuse_names(self, outputs: Sequence[TensorSpec]) -> None:
        """Refuse outputs that have the name of a column, and types that no column has.

        Raises:
            ConfigurationError: there is such an output (Spark compares names without case).
        """
        there = {name.lower(): name for name in self.columns}
        for spec in outputs:
            arrow_type(spec)
            if spec.name.lower() in there:
                raise ConfigurationError(
                    f"The program returns `{spec.name}`, and the table has a column "
                    f"`{there[spec.name.lower()]}` already. Return it under another name, drop the column "
                    "before, or pass trim=True to map_blocks to keep the outputs only."
                )
