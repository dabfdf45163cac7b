"""Does the model think of Texas on its way from Dallas to Austin?"""

import tl_circuits as tlc
from tl_circuits.zoo.firing import labelled

model, clt = tlc.demo()  # a small trained model and its transcoder, both of them files of the package
graph = tlc.trace(model, clt, "the capital of the state containing Dallas is")
graph = labelled(graph, model, clt)  # labels: what a feature fires on, in the demo's world

print(len(graph.find("Texas")), "nodes have Texas in their labels, which the prompt never says; one of them:")
texas = graph.node("L2/623@-1")
print(texas)
print(graph.paths(2, source="token@8", target=texas.id)[1])  # the second strongest; it goes by "Texas" too
print(graph.paths(1, source=texas.id)[0])
print(graph.scores())
