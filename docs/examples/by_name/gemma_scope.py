"""Gemma Scope's per-layer transcoders: for Gemma 2, the files that SAELens lists, and for Gemma 3, one variant."""

import tl_circuits as tlc

plt = tlc.load_transcoder("gemma-scope-2b-pt-transcoders")
print(f"{plt.model_name}: {plt.n_layers} layers, {plt.read} → {plt.write}")

skip = tlc.load_transcoder("gemma-scope-2-1b-it-transcoders-all", variant="width_16k_l0_small_affine")
print(f"{skip.model_name}: {skip.n_layers} layers, {skip.read} → {skip.write}, {len(skip.W_skip or [])} skips")
