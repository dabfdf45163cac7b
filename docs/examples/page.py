"""A graph as a page: one HTML file to look at, with a supernode in it from the start."""

from pathlib import Path
from tempfile import TemporaryDirectory

import tl_circuits as tlc
from tl_circuits.zoo.firing import labelled

model, clt = tlc.demo()
graph = labelled(tlc.trace(model, clt, "the capital of the state containing Dallas is"), model, clt)
texas = [view.id for view in graph.prune().find("Texas")]

with TemporaryDirectory() as folder:
    page = tlc.save_page(graph, Path(folder) / "dallas.html", supernodes={"Texas": texas})
    print(page.name, "holds", len(graph.nodes), "nodes,", len(graph.edges), "edges and a supernode of", len(texas))
    print("It asks for nothing:", "default-src 'none'" in page.read_text(encoding="utf-8"))
