"""From names to a graph: Gemma 2 and its cross-layer transcoder."""

from transformer_lens.model_bridge import TransformerBridge

import tl_circuits as tlc

model = TransformerBridge.boot_transformers("google/gemma-2-2b")
clt = tlc.load_transcoder("mntss-gemma-2-2b-2.5m-clt-as-per-layer")
graph = tlc.trace(model, clt, "Austin is in")
print(f"{graph.provenance.transcoder_kind} of {clt.n_layers} layers, {clt.read} → {clt.write}")
