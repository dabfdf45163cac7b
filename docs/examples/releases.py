"""The transcoders that are known by name for one model."""

import tl_circuits as tlc

for release in tlc.releases("google/gemma-2-2b"):
    print(f"{release.name}: {release.kind}, {release.read} → {release.write}, {len(release.variants)} variant")

release = tlc.releases("google/gemma-3-270m")[0]
for variant in release.variants:
    print(f"{release.name}, {variant.name}: {len(variant.layers)} of {release.n_layers} layers")
