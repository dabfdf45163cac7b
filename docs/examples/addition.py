"""Addition: which features of a sum's graph carry its ones digits, which its magnitude, and what each is good for."""

import random

import torch

import tl_circuits as tlc
from tl_circuits.intervention import InterventionResult
from tl_circuits.nodes import Kind
from tl_circuits.zoo.swap import last_token
from tl_circuits.zoo.world import Prompt

torch.set_num_threads(1)
model, clt = tlc.demo()
sums = [(a, b) for a in range(10, 90) for b in range(10, 100 - a)]


def question(a: int, b: int, digit: int) -> str:
    """What the model reads before it says the first digit (0) or the second (1) of a sum below 100."""
    return f"{a}+{b}=" + str(a + b)[:digit]


def explained(activations: torch.Tensor, digits: list[tuple[int, int]]) -> torch.Tensor:
    """The share of each feature's variance over all sums that goes with a pair of digits."""
    group = torch.tensor([10 * x + y for x, y in digits])
    means = torch.stack([activations[group == g].mean(0) for g in group.unique()])
    between = means[torch.searchsorted(group.unique(), group)] - activations.mean(0)
    return between.square().sum(0) / (activations - activations.mean(0)).square().sum(0).clamp_min(1e-9)


# Over all sums: does a feature at the last token go with the two ones digits, or with the two tens digits?
SHARES = []
for digit in (0, 1):
    activations = last_token(model, clt, [Prompt("addition", question(a, b, digit), "") for a, b in sums])
    ones, tens = ([(a % 10, b % 10) for a, b in sums], [(a // 10, b // 10) for a, b in sums])
    SHARES.append([(explained(layer, ones), explained(layer, tens)) for layer in activations])

Paths = dict[str, dict[tlc.Feature, float]]


def paths(local: tlc.LocalReplacementModel, digit: int) -> Paths:
    """The features of the graph at the last token, below the last layer, by path; with their activations."""
    graph = tlc.attribute(local)
    influence = graph.influence()[graph.nodes.span(Kind.FEATURE)].tolist()
    found: Paths = {"ones": {}, "magnitude": {}}
    for feature, activation, flow in zip(local.active(), local.activations.tolist(), influence, strict=True):
        if feature.pos < local.n_pos - 1 or feature.layer == 2 or flow < 0.001:
            continue
        of_ones, of_tens = (float(share[feature.index]) for share in SHARES[digit][feature.layer])
        if max(of_ones, of_tens) > 2 * min(of_ones, of_tens):
            found["ones" if of_ones > of_tens else "magnitude"][feature] = activation
    return found


def said(result: InterventionResult) -> str:
    """The likeliest next token."""
    return result.top_after(1)[0].text


for digit in (0, 1):
    local = tlc.localize(model, clt, question(36, 59, digit))
    found = paths(local, digit)
    print(question(36, 59, digit), {name: len(features) for name, features in found.items()}, "features by path")
    for name, features in found.items():
        strongest = max(features, key=lambda feature: features[feature])
        done = tlc.Intervention(list(features), scale=0)
        after = tlc.intervene(local, done, layers=(0, 1)).top_after(3)
        print(f"  without {name} ({strongest}, ...):", ", ".join(f"{t.text!r} {t.probability:.2f}" for t in after))

# The same for many sums: how often is each digit still right?
drawn = random.Random(0).sample(sums, 60)
right = {(name, digit): 0 for name in ("nothing", "ones", "magnitude") for digit in (0, 1)}
swapped, compared = dict.fromkeys((0, 1), 0), dict.fromkeys((0, 1), 0)
for (a, b), (c, d) in zip(drawn[:30], drawn[30:], strict=True):
    for digit in (0, 1):
        local, other = (tlc.localize(model, clt, question(*pair, digit)) for pair in ((a, b), (c, d)))
        mine, theirs = paths(local, digit), paths(other, digit)
        name = ("magnitude", "ones")[digit]
        # One path out, the same path of another sum in: does the model say the other sum's digit?
        swap = {feature: 0.0 for feature in mine[name]} | theirs[name]
        cases: list[list[tlc.Intervention]] = [
            [],
            [tlc.Intervention(list(mine["ones"]), scale=0)] if mine["ones"] else [],
            [tlc.Intervention(list(mine["magnitude"]), scale=0)] if mine["magnitude"] else [],
            [tlc.Intervention(feature, value=value) for feature, value in swap.items()],
        ]
        *kept, turned = tlc.intervene(local, cases, layers=(0, 1))
        for without, result in zip(("nothing", "ones", "magnitude"), kept, strict=True):
            right[without, digit] += said(result) == str(a + b)[digit]
        if str(a + b)[digit] != str(c + d)[digit]:
            compared[digit] += 1
            swapped[digit] += said(turned) == str(c + d)[digit]

print("right of 30 sums     first digit  second digit")
for name in ("nothing", "ones", "magnitude"):
    print(f"without {name:12} {right[name, 0]:11} {right[name, 1]:13}")
print(f"another sum's magnitude put in: its first digit is said in {swapped[0]} of {compared[0]}")
print(f"another sum's ones put in: its second digit is said in {swapped[1]} of {compared[1]}")

# From the equals sign on, generated tokens included: the first digit is right, and the second is gone.
local = tlc.localize(model, clt, "36+59=")
ones = paths(tlc.localize(model, clt, "36+59=9"), 1)["ones"]
done = tlc.Intervention(list(ones), scale=0, positions=slice(6, None))
for interventions in ([], [done]):
    print(repr(tlc.generate(local, interventions, 3, layers=(0, 1)).text), end=" ")
print("are said, without and with it")
