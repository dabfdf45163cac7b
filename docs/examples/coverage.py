"""Part of a graph, with a bound on what is missing."""

import tl_circuits as tlc
from tl_circuits.nodes import Kind

model, clt = tlc.demo()
local = tlc.localize(model, clt, "the capital of the state containing Dallas is")
full = tlc.attribute(local)
for coverage in (0.5, 0.8, 0.95, 1.0):
    graph = tlc.attribute(local, coverage=coverage)
    features = graph.nodes.span(Kind.FEATURE)
    expanded = int(graph.expanded[features].sum())
    low, high = graph.scores().replacement_bounds
    print(f"{expanded:2} of {features.stop} features expanded, coverage {graph.coverage:.3f}:", end=" ")
    print(f"replacement score between {low:.3f} and {high:.3f}")
print(f"the full graph's replacement score: {full.scores().replacement:.3f}")
