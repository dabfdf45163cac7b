"""A repository of the hub, and a folder in one."""

import tl_circuits as tlc

for address in ("mwhanna/qwen3-0.6b-transcoders-lowl0", "google/gemma-scope-2-1b-it/clt/width_262k_l0_medium_affine"):
    transcoder = tlc.load_transcoder(address)
    kind = "per-layer" if transcoder.is_per_layer else "cross-layer"
    print(f"{transcoder.model_name}: {kind}, {transcoder.n_layers} layers, {transcoder.read} → {transcoder.write}")
