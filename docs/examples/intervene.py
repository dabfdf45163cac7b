"""The state swap: take Texas out of a question about Dallas, put California in, and ask the model again."""

import tl_circuits as tlc
from tl_circuits.zoo.firing import labelled

model, clt = tlc.demo()
question = "the capital of the state containing {} is"


def of_state(local: tlc.LocalReplacementModel, state: str) -> dict[tlc.Feature, float]:
    """The features whose labels name a state, at the last token and below the last layer, with their activations."""
    named = {str(node.id) for node in labelled(tlc.attribute(local), model, clt).find(state)}
    active = zip(local.active(), local.activations.tolist(), strict=True)
    return {feature: a for feature, a in active if str(feature) in named and feature[:2] < (2, 0) and feature.pos == 9}


dallas, oakland = (tlc.localize(model, clt, question.format(city)) for city in ("Dallas", "Oakland"))
texas, california = of_state(dallas, "Texas"), of_state(oakland, "California")
others = [f for f in dallas.active() if f.layer < 2 and f.pos == 9 and f not in texas]
print(len(texas), "features of Texas,", len(california), "of California,", len(others), "others active at 'is'")

# California's features are not active at Dallas: they are set to what they were at Oakland.
put_in = [tlc.Intervention(feature, value=activation) for feature, activation in california.items()]
cases = {
    "Texas out": [tlc.Intervention(list(texas), scale=0)],
    "Texas out, California in": [tlc.Intervention(list(texas), scale=0), *put_in],
    "the others out": [tlc.Intervention(others, scale=0)],
}
# The MLPs of layers 0 and 1 are held at what they wrote, changed by these; layer 2 runs on. All of it is one batch.
results = dict(zip(cases, tlc.intervene(dallas, list(cases.values()), layers=(0, 1)), strict=True))
for case, result in results.items():
    print(f"{case}:", ", ".join(f"{token.text} {token.probability:.2f}" for token in result.top_after(3)))

swap = results["Texas out, California in"]
print(swap)
for feature, before, after in swap.changes.strongest(100):
    if feature.layer == 2:
        print(f"{feature}, which nobody touched: {before:.2f} -> {after:.2f}")
        break
print("the logits before are the model's own:", bool((swap.logits_before == dallas.logits).all()))
