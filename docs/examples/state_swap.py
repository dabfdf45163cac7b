"""The state swap: what the graphs of one state's questions have in common is put in the place of another's."""

import random
from collections import Counter, defaultdict

import torch

import tl_circuits as tlc
from tl_circuits.nodes import Kind
from tl_circuits.zoo.world import STATES, fact, world

torch.set_num_threads(1)
model, clt = tlc.demo()
dallas = "the capital of the state containing Dallas is"
last = 9

# Each feature at the last token, below the last layer: its mean influence and activation, by state.
influence, activation = defaultdict(Counter), defaultdict(Counter)
questions = [p for p in world().of("two-hop") if p.relation == "capital" and p.text != dallas]
asked = Counter(prompt.state for prompt in questions)
for prompt in questions:
    local = tlc.localize(model, clt, prompt.text)
    graph = tlc.attribute(local, progress=False)
    flows = graph.influence()[graph.nodes.span(Kind.FEATURE)].tolist()
    for feature, value, flow in zip(local.active(), local.activations.tolist(), flows, strict=True):
        if feature.pos == last and feature.layer < 2:
            influence[feature][prompt.state] += flow / asked[prompt.state]
            activation[feature][prompt.state] += value / asked[prompt.state]
print(len(questions), "graphs,", len(influence), "features")

# A feature stands for a state where a fifth of all of its influence is in that state's graphs.
stands_for = {
    state.name: [f for f, by in influence.items() if by[state.name] >= max(0.2 * by.total(), 0.0005)]
    for state in STATES
}  # fmt: skip
for state in ("Texas", "California"):
    top = sorted(stands_for[state], key=lambda f: -influence[f][state])[:4]
    print(f"{state}: {len(stands_for[state])} features, first", ", ".join(map(str, top)))

local = tlc.localize(model, clt, dallas)
now = dict(zip(local.active(), local.activations.tolist(), strict=True))


def swap(out: list[tlc.Feature], into: list[tlc.Feature], state: str | None, times: float) -> list[tlc.Intervention]:
    """Takes features out of the question, and puts others in at their mean in a state's graphs (any, where None)."""
    then = {feature: (1 - times) * now.get(feature, 0.0) for feature in out}
    for feature in into:
        means = activation[feature]
        mean = max(means.values()) if state is None else means[state]
        then[feature] = then.get(feature, now.get(feature, 0.0)) + times * mean
    return [tlc.Intervention(feature, value=value) for feature, value in then.items()]


texas, california = stands_for["Texas"], stands_for["California"]
for times in (0.5, 1.0, 1.5, 2.0):
    result = tlc.intervene(local, swap(texas, california, "California", times), layers=(0, 1), attention="free")
    print(f"M = {times}:", ", ".join(f"{token.text} {token.probability:.2f}" for token in result.top_after(3)))

# Every other state, and as many features drawn at random.
drawn, turned = random.Random(0), Counter()
silent = [feature for feature in influence if feature not in now]
others = [state for state in STATES if state.name != "Texas"]
for state in others:
    into = stands_for[state.name]
    active = [feature for feature in now if feature in influence and feature not in texas]
    by_chance = drawn.sample(active, 5), drawn.sample(silent, len(into))
    cases = {
        "graph-found features": swap(texas, into, state.name, 1.5),
        "random features": swap(*by_chance, None, 1.5),
    }
    results = tlc.intervene(local, list(cases.values()), layers=(0, 1), attention="free")
    for name, result in zip(cases, results, strict=True):
        turned[name] += result.top_after(1)[0].text == f" {fact(state, 'capital')}"
for name in ("graph-found features", "random features"):
    print(f"{name}: {turned[name]} of {len(others)} states' capitals")

# The last layer, which nobody touched, and how the text goes on.
done = swap(texas, california, "California", 1.5)
result = tlc.intervene(local, done, layers=(0, 1), attention="free")
for feature, before, after in result.changes.strongest(200):
    if feature.layer == 2 and min(before, after) == 0 and max(before, after) > 3.5:
        print(f"{feature}: {before + 0:.1f} -> {after + 0:.1f}")
print(repr(tlc.generate(local, done, 2, layers=(0, 1), attention="free").text))
