"""Many prompts, each graph in a file of its own, and what they have in common."""

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import tl_circuits as tlc

model, clt = tlc.demo()
prompts = [f"the capital of the state containing {city} is" for city in ("Dallas", "Belton", "Kingsville")]
prompts += ["36+59=" * 9]  # more than the demo reads

with TemporaryDirectory() as folder:
    results = tlc.trace_many(model, clt, prompts, Path(folder) / "capitals")
    print(f"{len(results)} of {results.n_prompts} prompts:")
    print(*sorted(f"  {path.name}" for path in results.folder.iterdir()), sep="\n")
    for entry in results.failed:
        print(f"prompt {entry.number} failed: {entry.error}")

    seen = Counter()
    for graph in results:  # loaded one at a time
        seen.update({(feature.layer, feature.index) for feature in graph.prune().nodes.features()})
    print("pruned graphs share", [f"L{layer}/{index}" for (layer, index), n in sorted(seen.items()) if n == 3])

    # Once more, with a prompt more: only that, and what failed, is traced.
    prompts[3:] = ["the bird of the state containing Dallas is"]
    results = tlc.trace_many(model, clt, prompts, Path(folder) / "capitals")
    print(f"{len(results)} of {results.n_prompts} prompts")
