"""Keep a graph, and give it to others: a file, tables, networkx, and JSON for public viewers."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import tl_circuits as tlc

model, clt = tlc.demo()
graph = tlc.trace(model, clt, "the capital of the state containing Dallas is")
small = graph.prune().with_labels({(1, 386): "Texas"})

with TemporaryDirectory() as folder:
    file = small.save(Path(folder) / "dallas.graph")
    again = tlc.load_graph(file)  # needs neither the model nor TransformerLens
    print("kept:", again.find("Texas"), again.provenance.prompt)

    text = small.to_json(
        Path(folder) / "dallas.json",
        preset="neuronpedia",
        slug="dallas-austin",
        pinned=["L1/386@-1"],
        supernodes={"Texas": ["L1/386@-1", "L2/623@-1"]},
    )
written = json.loads(text)
print("JSON:", len(written["nodes"]), "nodes,", len(written["links"]), "links,", written["qParams"]["supernodes"])

nodes, edges = small.to_pandas()
top = nodes.query("kind == 'feature'").sort_values("influence", ascending=False).head(3)
print(top[["node", "label", "activation", "influence"]].round(3).to_string(index=False))
print(small.to_networkx())
