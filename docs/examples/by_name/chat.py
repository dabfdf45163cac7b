"""A chat with Gemma 3 and its cross-layer transcoder: the tokens that start every chat are masked."""

from transformer_lens.model_bridge import TransformerBridge

import tl_circuits as tlc

model = TransformerBridge.boot_transformers("google/gemma-3-1b-it")
clt = tlc.load_transcoder("google/gemma-scope-2-1b-it/clt", variant="width_262k_l0_medium_affine")
graph = tlc.trace(model, clt, [{"role": "user", "content": "Where is Austin?"}], coverage=0.9)
print("masked:", [graph.tokens[pos] for pos in graph.provenance.masked_positions])
print("why:", graph.provenance.masked_why)
