"""What came of holding graphs against the model: figures by name, over prompts, with intervals."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tl_circuits.errors import SettingError
from tl_circuits.intervention.correlation import Interval
from tl_circuits.intervention.write_shares import WriteShares

SHOWN = (
    ("influence of features on the output against ablation (KL), Spearman", "nodes.kl.influence.spearman"),
    ("  by activation", "nodes.kl.activation.spearman"),
    ("  by direct edge", "nodes.kl.direct_edge.spearman"),
    ("  control: random in layer", "nodes.kl.random_in_layer.spearman"),
    ("  control: shuffled graph", "nodes.kl.shuffled_graph.spearman"),
    ("  among features that reach the output", "reaching.kl.influence.spearman"),
    ("  among these, by direct edge", "reaching.kl.direct_edge.spearman"),
    ("influence of features on features, Spearman", "features.influence.spearman"),
    ("  by direct edge", "features.direct_edge.spearman"),
    ("direct effects on targets, sign (nearly forced)", "direct.target.graph.sign"),
    ("knock-on effects on targets, sign", "knock_on.target.graph.sign"),
    ("  control: shuffled graph", "knock_on.target.shuffled_graph.sign"),
    ("likeliest token against the second, sign", "difference.graph.sign"),
    ("push along an encoder, one block on, cosine", "push.encoder.hop_1.replacement.residual_cosine"),
    ("  control: no MLP responds", "push.encoder.hop_1.no_mlps.residual_cosine"),
    ("Jacobian, cosine", "jacobian.replacement.cosine"),
    ("  control: no MLP responds", "jacobian.no_mlps.cosine"),
)


@dataclass(frozen=True, eq=False)
class FaithfulnessReport:
    """What graphs say against what the model does, over prompts. Figures by name, and by prompt.

    Names read `what.of.by.statistic`; `report["nodes.kl.influence.spearman"]` is an `Interval`: the mean over prompts,
    with bootstrap bounds. A figure that a prompt does not give (too few features, say) is NaN there.

    - `nodes.{kl|target}.{ranking}.{spearman|log_pearson|top_5}`: features ranked by influence, and the baselines
      `activation` and `direct_edge`, against what ablating them does to the output. `reaching.…`: the same among those
      with any influence, without the many that cannot reach the output and have no effect.
    - `features.{ranking}.{statistic}`: the influence of features on features, against the relative change of
      activations.
    - `{direct|total|knock_on}.{layers_1|…|target}.{by}.{spearman|log_pearson|sign}`: signed effects. Direct ones are
      nearly forced to agree, with attention held; knock-on effects are not.
    - `difference.{by}.{sign|sign_of_largest|spearman}`: the likeliest token's logit less the second's.
    - `push.{encoder|decoder|random}.hop_{n}.{replacement|no_mlps}.{residual|mlp}_{cosine|nmse}`: pushes of the residual
      stream, the local replacement model against the model, n blocks on.
    - `jacobian.{replacement|no_mlps}.{layer_n|cosine}`: the derivative of the last residual stream.
    - `writes.layer_{n}.across`: the share of what is explained there that features of lower layers write.

    Controls stand beside: `random_in_layer`, scores dealt anew among features of the same layer; `shuffled_graph`,
    edges dealt anew within each row; `no_mlps`, a model whose MLPs do not respond. `write_shares` is by prompt.
    """

    prompts: tuple[str, ...]
    features: tuple[int, ...]
    values: Mapping[str, tuple[float, ...]]
    write_shares: tuple[WriteShares, ...]
    settings: Mapping[str, Any]

    def __getitem__(self, name: str) -> Interval:
        if not isinstance(name, str) or name not in self.values:
            asked = str(name).split(".")[0]
            near = [known for known in self.values if known.startswith(asked)] or list(self.values)
            raise SettingError(
                f"There is no figure {name!r:.80} among {len(self.values)}: `report.values` lists them, such as "
                f"{', '.join(near[:3])}."
            )
        return Interval.of(self.values[name], self.settings["seed"])

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values; what is not a number is None."""
        return {
            "prompts": list(self.prompts),
            "features": list(self.features),
            "settings": dict(self.settings),
            "figures": {name: self[name].to_dict() for name in self.values},
            "values": {
                name: [value if math.isfinite(value) else None for value in values]
                for name, values in self.values.items()
            },
            "write_shares": [shares.to_dict() for shares in self.write_shares],
        }

    def to_json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), allow_nan=False)

    def __repr__(self) -> str:
        n = len(self.prompts)
        head = f"FaithfulnessReport({n} prompt{'s' if n > 1 else ''}, {sum(self.features)} features ablated)"
        rows = [(label, str(self[name])) for label, name in SHOWN if name in self.values]
        return "\n".join([head] + [f"  {label:<70}{value}" for label, value in rows])
