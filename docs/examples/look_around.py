"""Look around in a graph: its card, its targets, a node's inputs and outputs, and paths."""

import tl_circuits as tlc
from tl_circuits.nodes import Kind
from tl_circuits.zoo.firing import labelled

model, clt = tlc.demo()
graph = tlc.trace(model, clt, "the capital of the state containing Dallas is")
graph = labelled(graph, model, clt)
print(graph)

# What a word finds: labels, tokens and targets, the most influential first.
(austin,) = graph.find("Austin")
print("\nfound:", austin)

# The inputs of a node sum to what it reads. For a target that is its logit less the mean logit.
total = sum(weight for _, weight in austin.inputs())
print(f"\n{len(austin.inputs())} inputs sum to {total:.2f}; the logit is {austin.activation:.2f}; the largest inputs:")
for source, weight in austin.inputs(6):
    print(f"{weight:+.2f} from {source.id} {source.label}".rstrip())

# One feature, by its name: layer 1, index 386, last token.
texas = graph.node("L1/386@-1")
print(f"\n{texas.id} {texas.label}: activation {texas.activation:.2f}, influence {texas.influence:.3f}")
for source, weight in texas.inputs(5):
    print(f"{weight:+.2f} from {source.id} {source.label}".rstrip())
for target, weight in texas.outputs(2):
    print(f"{weight:+.2f} to   {target.id} {target.label}")

# Paths: the strongest that start at a token, and those from one token to one feature.
print("\nfrom tokens to the target:")
for path in graph.paths(3, source=Kind.TOKEN):
    print(f"share {path.share:.3f}, effect {path.effect:+.2f}:", " -> ".join(str(view.id) for view in path.nodes))
print("from 'las' to the Texas feature:")
for path in graph.paths(3, source="token@8", target=texas.id):
    print(f"share {path.share:.3f}, effect {path.effect:+.2f}:", " -> ".join(str(view.id) for view in path.nodes))
