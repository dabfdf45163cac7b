"""How much a graph explains, and the part of it that matters."""

import tl_circuits as tlc
from tl_circuits.nodes import Kind

model, clt = tlc.demo()
graph = tlc.trace(model, clt, "the capital of the state containing Dallas is")
print("full  ", graph.scores())

small = graph.prune(nodes=0.8, edges=0.98)
print("pruned", small.scores())
for size in (graph, small):
    print(f"{size.nodes.count(Kind.FEATURE)} features, {len(size.nodes)} nodes, {len(size.edges)} edges")

# Influence is a share: what of the targets' weight passes through a node, over all paths.
influence = graph.influence()
for kind in (Kind.TOKEN, Kind.ERROR):
    print(f"{kind.name.lower()} nodes together: {influence[graph.nodes.span(kind)].sum():.3f}")

# How far tokens are from the target: the share of influence that reaches them in at most 1, 2, ... steps.
print("within steps:", [round(share, 3) for share in graph.path_lengths().tolist()])
