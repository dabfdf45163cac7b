"""What an intervention did, for the command line: printed by rich for people, as plain values for programs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.table import Table
from rich.text import Text

from tl_circuits.graph.report import columns, quoted, section
from tl_circuits.intervention.generate import GenerationResult
from tl_circuits.intervention.result import InterventionResult, TopToken
from tl_circuits.nodes import Feature


@dataclass(frozen=True, eq=False)
class InterventionReport:
    """One intervention: likely tokens before and after, the features it moved the most, and how the text goes on.

    `continuations` are the model's own and the changed one, where they were asked for.
    """

    result: InterventionResult
    continuations: tuple[GenerationResult, GenerationResult] | None = None
    n_tokens: int = 5
    n_features: int = 10

    @property
    def moved(self) -> list[tuple[Feature, float, float]]:
        """The features that changed the most, but for those named by the interventions: what these led to."""
        n_pos = self.result.local.n_pos
        touched = (feature for done in self.result.interventions for feature in done.features)
        named = {feature._replace(pos=feature.pos % n_pos) for feature in touched}
        strongest = self.result.changes.strongest(max(1, len(self.result.changes)))
        return [change for change in strongest if change[0] not in named][: self.n_features]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        result = self.result
        found = {
            "interventions": [str(intervention) for intervention in result.interventions],
            "features": [str(feature) for done in result.interventions for feature in done.features],
            "mode": result.mode,
            "layers": list(result.layers),
            "attention": result.attention,
            "tokens": list(result.local.prompt.strings),
            "before": [token._asdict() for token in result.top_before(self.n_tokens)],
            "after": [token._asdict() for token in result.top_after(self.n_tokens)],
            "inactive": [str(feature) for feature in result.inactive],
            "appeared": result.changes.appeared,
            "vanished": result.changes.vanished,
            "moved": [{"feature": str(f), "before": before, "after": after} for f, before, after in self.moved],
        }
        if self.continuations is not None:
            own, changed = self.continuations
            found["continuation"] = {"before": own.text, "after": changed.text}
        return found

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        result = self.result
        first, last = result.layers
        held = Text(f"mode {result.mode}, layers {first} to {last}, attention {result.attention}", style="dim")
        yield section("Interventions", Group(*(Text(str(done)) for done in result.interventions), held))
        yield section("Before", _tokens(result.top_before(self.n_tokens)))
        yield section("After", _tokens(result.top_after(self.n_tokens)))
        yield section("What moved elsewhere", self._moved())
        if result.inactive:
            silent = ", ".join(map(str, result.inactive))
            yield section("Not active on this prompt, so that scaling changes nothing", Text(silent))
        if self.continuations is not None:
            own, changed = self.continuations
            rows = (("before", quoted(own.text)), ("after", quoted(changed.text)))
            yield section("Goes on", columns(*rows))

    def _moved(self) -> RenderableType:
        if not self.moved:
            return Text("nothing")
        table = Table("feature", "token", "before", "after", box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for column in table.columns[2:]:
            column.justify = "right"
        strings = self.result.local.prompt.strings
        for feature, before, after in self.moved:
            table.add_row(str(feature), quoted(strings[feature.pos]), f"{before:.3f}", f"{after:.3f}")
        return table


def _tokens(tokens: list[TopToken]) -> RenderableType:
    return columns(*((Text(f"{token.probability:.2%}", justify="right"), quoted(token.text)) for token in tokens))
