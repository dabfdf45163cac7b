"""One code for both model classes; precision, masked positions, and models whose weights were processed."""

import textwrap
import warnings

import torch

import tl_circuits as tlc

prompt = "the capital of the state containing Dallas is"
bridge, clt = tlc.demo("bridge")  # a TransformerBridge, as from TransformerBridge.boot_transformers(...)
hooked, _ = tlc.demo("hooked")  # a HookedTransformer, as from HookedTransformer.from_pretrained_no_processing(...)
graph = tlc.trace(bridge, clt, prompt)
same = tlc.trace(hooked, clt, prompt)
print("both classes, one graph:", torch.allclose(graph.adjacency(), same.adjacency(), atol=1e-4))

# What the graph was made of, and of which positions the features were left out.
print("masked:", graph.provenance.masked_positions, "-", graph.provenance.masked_why)
masked = tlc.localize(bridge, clt, prompt)
unmasked = tlc.localize(bridge, clt, prompt, masked_positions=())
print(f"active features: {len(masked.active())}, and without a mask {len(unmasked.active())}")

# Edges are computed in the model's dtype.
print("float32 conserves to 1e-5:", graph.conservation_error < 1e-5)
exact = tlc.trace(bridge.to(torch.float64, print_details=False), clt, prompt)
print("float64 conserves to 1e-12:", exact.conservation_error < 1e-12)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always", tlc.TLCircuitsWarning)
    tlc.localize(bridge.to(torch.bfloat16, print_details=False), clt, prompt)
    print(textwrap.fill(str(said[0].message), 110))

# Folding norms and centring weights changes neither what ln2.hook_normalized holds nor the graph ...
hooked.process_weights_()
processed = tlc.trace(hooked, clt, prompt)
print("on processed weights, one graph:", f"{processed.scores().replacement:.3f} {graph.scores().replacement:.3f}")

# ... but it does change other read points, so a transcoder that reads there is refused, unless it was trained so.
weights = (list(clt.W_enc), list(clt.b_enc), list(clt.W_dec), clt.b_dec)
for read in ("mlp.hook_in", "hook_resid_pre"):
    reader = tlc.CrossLayerTranscoder(*weights, activation=tlc.JumpReLU(0.5), read=read)
    try:
        tlc.localize(hooked, reader, prompt)
    except tlc.FitError as error:
        print(textwrap.fill(str(error), 110))
