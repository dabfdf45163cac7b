"""The full replacement model: every MLP's output replaced by the transcoder's, in TransformerLens's own passes."""

import torch

import tl_circuits as tlc

model, clt = tlc.demo()
prompt = "the capital of the state containing Dallas is"
own = model(prompt)

with tlc.replace_mlps(model, clt) as features:
    _, cache = model.run_with_cache(prompt)
    logits = model(prompt)
answer = logits[0, -1].argmax()
print("it says", repr(model.to_string(answer)), "- as the model does:", bool(answer == own[0, -1].argmax()))
divergence = own.softmax(-1) * (own.log_softmax(-1) - logits.log_softmax(-1))
print(f"KL at the last token: {divergence[0, -1].sum():.6f}")

# What the transcoder did in the latest pass: by layer, or by names like those of SAELens. At `<bos>` it does nothing.
print("active at the last token, by layer:", [int((features[layer][0, -1] > 0).sum()) for layer in range(3)])
print(*list(features)[:3], sep="\n")
print("as a sparse tensor:", features.sparse(1)._nnz(), "of", features[1].numel())
written, put = cache["blocks.1.hook_mlp_out"], features["blocks.1.hook_mlp_out.hook_transcoder_recons"]
print("the cache holds what was put there:", torch.allclose(written[:, 1:], put[:, 1:], atol=1e-4))

# With the errors added back, the outputs are the model's own, and the features are those of the graph.
with tlc.replace_mlps(model, clt, error_terms=True) as features:
    same = model(prompt)
print("with errors, the same logits:", torch.allclose(same, own, atol=1e-4))
active = tlc.localize(model, clt, prompt).active()
print(sum(int((features[layer] > 0).sum()) for layer in range(3)), "features active, in the graph", len(active))

# Outside, nothing is left behind.
print("the model is as it was:", torch.equal(model(prompt), own))
