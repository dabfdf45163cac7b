"""Trace a model of your own. This one is tiny and random, so nothing is downloaded and nothing means anything."""

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

import tl_circuits as tlc

# Any TransformerBridge does as well, as TransformerBridge.boot_transformers("gpt2"). A HookedTransformer warns that
# TransformerLens 4 will drop it.
warnings.filterwarnings("ignore", message="HookedTransformer", category=DeprecationWarning)
model = HookedTransformer(
    HookedTransformerConfig(n_layers=3, d_model=32, d_head=8, n_ctx=16, act_fn="gelu_new", d_vocab=50, seed=0)
)

# A cross-layer transcoder is a handful of tensors: column k of W_dec[layer] writes layer + k.
n_layers, n_features, d_model = 3, 64, 32
draw = torch.Generator().manual_seed(0)
clt = tlc.CrossLayerTranscoder(
    W_enc=torch.randn(n_layers, n_features, d_model, generator=draw),
    b_enc=torch.zeros(n_layers, n_features),
    W_dec=[torch.randn(n_features, n_layers - layer, d_model, generator=draw) / 32 for layer in range(n_layers)],
    b_dec=torch.zeros(n_layers, d_model),
    activation=tlc.JumpReLU(torch.full((n_layers, n_features), 4.0)),
    read="ln2.hook_normalized",
    write="hook_mlp_out",
)

prompt = torch.tensor([3, 14, 15, 9, 2, 6])

# Two steps: the model as it is on this prompt, with its MLPs taken apart into features; then every direct effect in it.
local = tlc.localize(model, clt, prompt)
graph = tlc.attribute(local, targets=[5])
print(f"{len(local.active())} active features, {len(graph.nodes)} nodes")

# The inputs of every node sum to what it reads. The graph says how nearly, and so does a probe of real forward passes.
print("conserved to 1e-5:", graph.conservation_error < 1e-5, "| probe agrees to 1e-3:", graph.probe_error < 1e-3)

# Look around: the strongest inputs of the target, and the path that carries the most influence to it.
target = graph.node("target 5@5")
for source, weight in target.inputs(3):
    print(f"{weight:+.2f} from {source.id}")
(path,) = graph.paths(1)
print(" -> ".join(str(view.id) for view in path.nodes))

# A graph is a value: cut it down, score it, keep it. (A random transcoder explains little, so these scores are low.)
small = graph.prune(nodes=0.8, edges=0.98)
print(f"pruned to {len(small.nodes)} nodes")
print(f"replacement score {graph.scores().replacement:.2f}, completeness {graph.scores().completeness:.2f}")
with TemporaryDirectory() as folder:
    file = small.save(Path(folder) / "small.graph")
    print("kept:", len(tlc.load_graph(file).nodes), "nodes")
