"""Does the model think of Texas on its way from Dallas to Austin?"""

import tl_circuits as tlc
from tl_circuits.zoo.firing import labelled

model, clt = tlc.demo()  # a small trained model and its transcoder, both of them files of the package
graph = tlc.trace(model, clt, "the capital of the state containing Dallas is")
graph = labelled(graph, model, clt)  # labels: what a feature fires on, in the demo's world

for feature in graph.find("Texas")[:2]:  # the prompt never says it
    print(feature)
texas = graph.node("L1/386@-1")
print(graph.paths(1, source="token@8", target=texas.id)[0])
print(graph.paths(1, source=texas.id)[0])
print(graph.scores())
