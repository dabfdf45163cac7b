"""Pictures of a graph, an intervention and circuits: plots by matplotlib, an SVG for a paper. A folder keeps them."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import tl_circuits as tlc
from tl_circuits.zoo.atlas import task
from tl_circuits.zoo.firing import labelled

model, clt = tlc.demo()
local = tlc.localize(model, clt, "the capital of the state containing Dallas is")
graph = labelled(tlc.attribute(local), model, clt)
small = graph.prune(0.7, 0.9)
texas = [view.id for view in graph.prune().find("Texas")]
capital = [view.id for view in small.find("capital") if view.id.layer == 2]

layers, features = (0, 1), [str(node) for node in texas if node.layer < 2]
off, flipped = (tlc.intervene(local, [tlc.Intervention(features, scale=by)], layers=layers) for by in (0, -2))

atlas, features_of_it = tlc.atlas()
asked = task(atlas, "two-hop", count=16)
bases = (tlc.Basis.features(atlas, features_of_it), tlc.Basis.neurons(atlas))
curves = [tlc.circuit_curve(atlas, basis, asked, "attribution-patching") for basis in bases]

with TemporaryDirectory() as temporary:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
    tlc.plot(small, path=folder / "plot.png")
    tlc.plot_error_share(small, path=folder / "errors.png")
    tlc.plot_attention(local, path=folder / "attention.png")
    tlc.plot_intervention({"Texas off": off, "Texas × −2": flipped}, path=folder / "intervention.png")
    tlc.plot_curves(curves, path=folder / "curves.png")
    tlc.subgraph_svg(graph, {"Texas": texas, "say a capital": capital}, folder / "texas.svg")
    for name in ("plot.png", "errors.png", "attention.png", "intervention.png", "curves.png", "texas.svg"):
        print(name, "is written:", (folder / name).stat().st_size > 1000)
