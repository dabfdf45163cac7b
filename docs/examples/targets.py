"""What to explain: tokens, a difference of two, a feature, or a direction of your own."""

import torch

import tl_circuits as tlc
from tl_circuits.nodes import Kind
from tl_circuits.zoo.world import STATES, name

model, clt = tlc.demo()
local = tlc.localize(model, clt, "the capital of the state containing Dallas is")


def show(what: str, graph: tlc.AttributionGraph) -> None:
    """The value of the first target, and the features that add the most to it."""
    target = graph.node(graph.nodes.span(Kind.TARGET).start)
    features = [(view, weight) for view, weight in target.inputs() if view.id.kind is Kind.FEATURE]
    largest = ", ".join(f"{weight:+.2f} {view.id}" for view, weight in features[:3])
    print(f"{what}: {target.activation:.2f} = {largest} ...")


# Tokens, by text or by id. Each counts by its probability, unless you give weights.
both = tlc.attribute(local, [" Austin", " Houston"])
show("the logit of ' Austin'", both)
against = [(view.label, round(weight, 2)) for view, weight in both.node("L0/496@-1").outputs() if view.label]
print("L0/496 adds to", against)

# Why this one and not that one? What both logits share falls out.
show("' Austin' less ' Houston'", tlc.attribute(local, tlc.Targets.difference(" Austin", " Houston")))

# What a feature reads: everything below it.
show("what L1/386 reads", tlc.attribute(local, tlc.Targets.features(["L1/386@-1"])))


# A direction in what the transcoder reads: here what Texan cities have and others lack, at layer 1 and the last token.
def mean_read(cities: list[str]) -> torch.Tensor:
    """The mean of what layer 1's features read on questions about these cities."""
    tokens = torch.cat([model.to_tokens(f"the capital of the state containing {city} is") for city in cities])
    _, cache = model.run_with_cache(tokens, names_filter="blocks.1.ln2.hook_normalized")
    return cache["blocks.1.ln2.hook_normalized"][:, -1].mean(0).detach()


texan = mean_read([name(city) for state in STATES if state.name == "Texas" for city in state.cities])
other = mean_read([name(city) for state in STATES if state.name != "Texas" for city in state.cities])
direction = tlc.Targets.direction((texan - other) / (texan - other).norm(), layer=1, label="Texan")
show("the Texan direction", tlc.attribute(local, direction))

# What cannot be is said, with the next thing to try.
try:
    tlc.attribute(local, ["Austin"])
except tlc.TargetError as error:
    print(error)
