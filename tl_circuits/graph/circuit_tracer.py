"""circuit-tracer's graphs: pickled, so only converted.

`Graph.to_pt` of circuit-tracer 0.1 to 0.5 writes one dictionary into a `.pt` file:

    adjacency_matrix     (node, node), row = target: the selected features, errors by layer, tokens, targets
    active_features      (active, 3) of layer, position, index; activation_values (active)
    selected_features    which of the active features are nodes: all, or the most influential `max_feature_nodes`
    input_tokens         (pos); input_string is their text
    logit_targets        a text and an id for each target; in early files ids alone, or ids called logit_tokens
    logit_probabilities  (target), the weights of the targets
    cfg, scan            the settings of the model, and what the transcoder is called

Those nodes stand in our order. Constants (biases, position embeddings) are not among them, and so no node's inputs can
be held against its value.
"""

import math
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tl_circuits.errors import FileError, GraphError, SettingError
from tl_circuits.graph.asked import file_name, flag, whole
from tl_circuits.graph.edges import Edges
from tl_circuits.graph.graph import AttributionGraph
from tl_circuits.graph.record import Provenance
from tl_circuits.nodes import Kind, Nodes, lay_out

_FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_LARGEST = 2**63 - 1
# So many entries of the matrix are looked through at a time: indices of all of them would not fit beside it.
_BAND = 2**26


def convert_graph(
    source: str | Path,
    file: str | Path | None = None,
    *,
    decode: Callable[[int], str] | None = None,
    overwrite: bool = False,
) -> AttributionGraph:
    """The graph that circuit-tracer's `Graph.to_pt` wrote, also saved as `file` where one is given.

    Nodes, edges, activations and the targets' weights are circuit-tracer's, so influence (there multiplied by the sum
    of the weights), `prune(errors=True)` and `scores` are its own too: its completeness is
    `completeness_circuit_tracer`, and targets of negative weight count by its size. Active features that circuit-tracer
    did not select are not in its matrix, so they are not in the graph: `provenance.settings` has both numbers.

    Not in the file, and so unknown: constants and `conservation_error` (nan), where the transcoder reads and writes,
    and the values of the targets. A target's activation and every total are what the inputs in the file sum to. The
    tokens' texts are not there either: `decode`, such as a tokenizer's, makes them of token ids; without it they are
    written as `#464`.

    The file is opened by `torch.load(weights_only=True)`, which builds tensors and plain data and refuses everything
    else. Raises `FileError` where it holds anything else or no lawful graph, and where `file` cannot be written or
    exists (unless `overwrite`), and `SettingError` where `decode` cannot be called or gives no text.
    """
    path = file_name(source)
    if decode is not None and not callable(decode):
        raise SettingError(f"decode={decode!r:.80} cannot be called: give a tokenizer's decode, or leave it out.")
    out = None if file is None else _place(file, overwrite)
    opened = _Opened.of(path)
    try:
        graph = _graph(opened, decode)
    except GraphError as error:
        raise FileError(f"'{path}' does not hold a graph: {error}") from error
    if out is not None:
        graph.save(out)
    return graph


def _place(file: str | Path, overwrite: bool) -> Path:
    # Said before the graph is read, and not after.
    path = file_name(file)
    if not flag("overwrite", overwrite) and path.exists():
        raise FileError(f"'{path}' exists already: give another name, or overwrite=True (--overwrite) to replace it.")
    return path


class _Record:
    """Stands in for a class that a file names: what made an object of it is kept as plain data, and nothing is run."""

    parts: tuple[Any, ...]
    state: Any

    def __new__(cls, *parts: Any) -> "_Record":
        record = super().__new__(cls)
        record.parts, record.state = parts, None
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Config(_Record):
    """The settings of the model: the one kind that circuit-tracer makes of all, or TransformerLens's in early files."""


class _Target(_Record):
    """A target: its text and its id."""


class _Number(_Record):
    """A number of numpy's, or its type: TransformerLens leaves some among its settings."""


_STAND_INS: tuple[tuple[type[_Record], str], ...] = (
    (_Config, "circuit_tracer.utils.tl_nnsight_mapping.UnifiedConfig"),
    (_Config, "transformer_lens.HookedTransformerConfig.HookedTransformerConfig"),
    (_Config, "transformer_lens.config.HookedTransformerConfig.HookedTransformerConfig"),
    (_Config, "transformer_lens.config.hooked_transformer_config.HookedTransformerConfig"),
    (_Target, "circuit_tracer.attribution.targets.LogitTarget"),
    (_Number, "numpy.core.multiarray.scalar"),
    (_Number, "numpy._core.multiarray.scalar"),
    (_Number, "numpy.dtype"),
)


@dataclass(frozen=True)
class _Opened:
    """What a file holds, as plain data whose types and shapes are checked as it is asked for."""

    path: Path
    entries: Mapping[Any, Any] = field(repr=False)

    @classmethod
    def of(cls, path: Path) -> "_Opened":
        """Opens a file. Raises `FileError` where it is missing, damaged, or no dictionary of tensors and plain data."""
        if not path.is_file():
            there = f"'{path}' is a folder" if path.is_dir() else f"There is no file '{path}'"
            raise FileError(f"{there}. Give the .pt file that circuit-tracer's graph.to_pt(...) wrote.")
        stand_ins: Any = list(_STAND_INS)
        # Whatever a damaged or hostile file does to its reader, it is the file that is at fault.
        try:
            with zipfile.ZipFile(path) as archive:
                claimed = sum(entry.file_size for entry in archive.infolist())
            if claimed > (size := path.stat().st_size):
                raise zipfile.BadZipFile(f"{claimed} bytes are said to be in a file of {size}")
            with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(stand_ins):
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:
            raise FileError(
                f"'{path}' cannot be read as tensors and plain settings ({_problem(error)}): it is damaged, or holds "
                "what could run code, and was left unread. Save the graph again with circuit-tracer's graph.to_pt(...)."
            ) from error
        if not isinstance(content, dict) or not isinstance(content.get("cfg"), _Config):
            held = f"'{path}' holds a {type(content).__name__}"
            if isinstance(content, dict):
                names = sorted(name[:40] for name in content if isinstance(name, str))
                held += f" of {', '.join(names[:8]) or 'nothing'}"
            raise FileError(
                f"{held}, and not circuit-tracer's graph with its cfg. Give the file that graph.to_pt(...) wrote there."
            )
        return cls(path, content)

    def refuse(self, name: str, found: str, expected: str) -> NoReturn:
        raise FileError(
            f"{name} in '{self.path}' is {found}, but {expected} was expected. Is it the graph that circuit-tracer's "
            "graph.to_pt(...) wrote? Save it again."
        )

    def floats(self, name: str, *shape: int | None, why: str = "") -> Float[Tensor, "..."]:
        """A tensor of floating numbers; None stands for any length."""
        return self._tensor(name, _FLOATING, shape, why)

    def ids(self, name: str, *shape: int | None, below: int = _LARGEST) -> Int64[Tensor, "..."]:
        """A tensor of whole numbers that are counted from 0."""
        found = self._tensor(name, _WHOLE, shape, "").to(torch.int64)
        if found.numel() and (int(found.min()) < 0 or int(found.max()) >= below):
            numbers = f"numbers from 0 to {below - 1}" if below < _LARGEST else "numbers from 0"
            self.refuse(name, f"{int(found.min())} to {int(found.max())}", numbers)
        return found

    def _tensor(self, name: str, dtypes: Sequence[torch.dtype], shape: tuple[int | None, ...], why: str) -> Tensor:
        tensor = self.entries.get(name)
        wanted = "a tensor of " + ("floating" if dtypes is _FLOATING else "whole") + " numbers, shape ("
        wanted += ", ".join("any" if want is None else str(want) for want in shape) + f"){why}"
        if type(tensor) is not Tensor:
            self.refuse(name, _shown(tensor), wanted)
        fits = tensor.dim() == len(shape) and all(w in (None, n) for w, n in zip(shape, tensor.shape, strict=True))
        if not fits or tensor.dtype not in dtypes or tensor.layout != torch.strided or tensor.device.type != "cpu":
            self.refuse(name, f"{tensor.dtype} {tuple(tensor.shape)}", wanted)
        # A tensor may repeat a few stored numbers without end.
        stored, claimed = tensor.untyped_storage().nbytes(), math.prod(tensor.shape) * tensor.element_size()
        if stored < claimed:
            self.refuse(name, f"{tuple(tensor.shape)} of {stored} bytes", f"{claimed} bytes")
        return tensor.detach()

    def setting(self, name: str) -> Any:
        """One of the model's settings, None where there is none."""
        state = self.entries["cfg"].state
        return state.get(name) if isinstance(state, dict) else None

    def count(self, name: str, value: object) -> int:
        """A number of things, from 1."""
        found = whole(value)
        if found is None or not 1 <= found <= _LARGEST:
            self.refuse(name, _shown(value), "a whole number from 1")
        return found

    def text(self, name: str, value: object) -> str:
        """A text, empty where there is none."""
        if not isinstance(value, str | None):
            self.refuse(name, _shown(value), "a text")
        return value or ""

    def texts(self, name: str, value: object) -> list[str]:
        """One text or several, none where there is none."""
        return [self.text(name, part) for part in value] if isinstance(value, list) else [self.text(name, value)]

    def targets(self) -> list[tuple[str, int]]:
        """The text (empty where it is unknown) and the id of each target."""
        name = "logit_targets" if "logit_targets" in self.entries else "logit_tokens"
        found = self.entries.get(name)
        if not isinstance(found, list):
            return [("", number) for number in self.ids(name, None).tolist()]
        return [self._target(name, entry) for entry in found]

    def _target(self, name: str, entry: object) -> tuple[str, int]:
        match entry.parts if isinstance(entry, _Target) else ():
            case (str() as text, int() as number) if 0 <= number < _LARGEST:
                return text, number
        self.refuse(name, f"a list with {_shown(entry)}", "a text and an id for each target")


def _problem(error: Exception) -> str:
    # torch says what it met after a page of advice on how to run it.
    if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"it names {named[1]:.80}"
    met = re.search(r"(?s)(?:.*WeightsUnpickler error: )?\s*([^\n]{1,160})", str(error))
    return met[1] if met else type(error).__name__


def _shown(value: object) -> str:
    # Lists inside lists, and numbers of many thousand digits, can make a text that has no end.
    match value:
        case None:
            return "not there"
        case str():
            return f"{value:.80}"
        case int() if abs(value) <= _LARGEST:
            return str(value)
        case _:
            return f"a {type(value).__name__.lstrip('_')}"


def _graph(opened: _Opened, decode: Callable[[int], str] | None) -> AttributionGraph:
    n_layers = opened.count("cfg.n_layers", opened.setting("n_layers"))
    active = opened.ids("active_features", None, 3)
    selected = opened.ids("selected_features", None, below=len(active))
    tokens, targets = opened.ids("input_tokens", None), opened.targets()
    n_nodes = len(selected) + (n_layers + 1) * len(tokens) + len(targets)
    counts = (
        f"{len(selected)} features, {n_layers} × {len(tokens)} errors, {len(tokens)} tokens, {len(targets)} targets"
    )
    adjacency = opened.floats("adjacency_matrix", n_nodes, n_nodes, why=f" for {counts}")
    weights = opened.floats("logit_probabilities", len(targets)).to(torch.float64, copy=True)
    is_token = torch.tensor([number < _vocabulary(opened) for _, number in targets], dtype=torch.bool)
    ids = torch.tensor([number for _, number in targets], dtype=torch.int64)
    nodes = _nodes(active[selected], n_layers, tokens, torch.where(is_token, ids, -1))
    edges = _edges(adjacency)
    expanded = nodes.rows(Kind.FEATURE, Kind.TARGET)
    totals = torch.where(expanded, edges.sums(), math.nan)
    activations = torch.where(nodes.rows(Kind.TARGET), totals, math.nan)
    values = opened.floats("activation_values", len(active)).to(torch.float64)
    activations[nodes.span(Kind.FEATURE)] = values[selected]
    return AttributionGraph(
        nodes=nodes,
        edges=edges,
        activations=activations,
        totals=totals,
        expanded=expanded,
        target_weights=weights,
        target_labels=tuple(text or _word(number, decode) for text, number in targets),
        target_probabilities=torch.where(is_token, weights, math.nan),
        tokens=tuple(_word(number, decode) for number in tokens.tolist()),
        provenance=_provenance(opened, n_layers, adjacency.dtype, len(active), len(selected)),
    )


def _vocabulary(opened: _Opened) -> int:
    # A target that is no token has an id beyond what the model can say; early files leave vocab_size out.
    known = [size for size in (opened.setting("d_vocab"), opened.entries.get("vocab_size")) if size is not None]
    return opened.count("cfg.d_vocab", known[0]) if known else _LARGEST


def _nodes(
    features: Int64[Tensor, "feature 3"],
    n_layers: int,
    tokens: Int64[Tensor, " pos"],
    targets: Int64[Tensor, " target"],
) -> Nodes:
    last = torch.tensor([n_layers, len(tokens) - 1]).expand(len(targets), 2)
    nodes = lay_out(
        features,
        n_layers,
        tokens,
        learned_positions=False,
        masked_positions=(),
        targets=torch.cat([last, targets[:, None]], dim=1),
    )
    return nodes.subset(nodes.rows(Kind.FEATURE, Kind.ERROR, Kind.TOKEN, Kind.TARGET))


def _edges(adjacency: Float[Tensor, "node node"]) -> Edges:
    bands = [Edges.from_dense(band) for band in adjacency.split(max(1, _BAND // max(1, len(adjacency))))]
    counts = torch.cat([band.indptr.diff() for band in bands])
    return Edges(
        torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]),
        torch.cat([band.source for band in bands]),
        torch.cat([band.weight for band in bands]),
    )


def _word(number: int, decode: Callable[[int], str] | None) -> str:
    word = f"#{number}" if decode is None else decode(number)
    if not isinstance(word, str):
        raise SettingError(
            f"decode({number}) gives {word!r:.80} and no text: give what turns one token id into its text, say "
            "decode=model.tokenizer.decode."
        )
    return word


def _provenance(opened: _Opened, n_layers: int, dtype: torch.dtype, n_active: int, n_selected: int) -> Provenance:
    named = opened.setting("dtype")
    scan = opened.texts("scan", opened.entries.get("scan"))
    return Provenance(
        prompt=opened.text("input_string", opened.entries.get("input_string")),
        model=opened.text("cfg.model_name", opened.setting("model_name")),
        transcoder=", ".join(scan),
        transcoder_kind="transcoder",
        n_layers=n_layers,
        dtype=str(named if isinstance(named, torch.dtype | str) else dtype).removeprefix("torch."),
        settings={
            "converted_from": "circuit-tracer",
            "file": opened.path.name,
            "tokenizer": opened.text("cfg.tokenizer_name", opened.setting("tokenizer_name")),
            "scan": scan,
            "active_features": n_active,
            "selected_features": n_selected,
            "targets_are": "sums of inputs, without constants",
        },
    )
