"""Does a feature stand for Texas? Ask about every city of the demo's world, and see on which ones it is active."""

import torch

import tl_circuits as tlc
from tl_circuits.zoo.world import STATES, name

model, clt = tlc.demo()
candidates = [(1, 386), (2, 313), (1, 507), (0, 496)]


def activations(cities: list[str]) -> dict[tuple[int, int], torch.Tensor]:
    """What the candidates do at the last token, with the errors added back, so that the model runs as it is."""
    prompts = [f"the capital of the state containing {city} is" for city in cities]
    with torch.no_grad(), tlc.replace_mlps(model, clt, error_terms=True) as features:
        model(torch.cat([model.to_tokens(prompt) for prompt in prompts]))
    return {(layer, index): features[layer][:, -1, index] for layer, index in candidates}


# Dallas is where the feature was found, so it is no evidence.
texan = [name(city) for state in STATES if state.name == "Texas" for city in state.cities if name(city) != "Dallas"]
other = [name(city) for state in STATES if state.name != "Texas" for city in state.cities]
in_texas, elsewhere = activations(texan), activations(other)
print(f"{len(texan)} other Texan cities, {len(other)} cities elsewhere")
for layer, index in candidates:
    inside, outside = in_texas[layer, index], elsewhere[layer, index]
    print(
        f"L{layer}/{index}: active on {int((inside > 0).sum())} Texan cities, mean {inside.mean():.2f}; "
        f"on {int((outside > 0).sum())} others, mean {outside.mean():.2f}"
    )
silent = [city for city, value in zip(texan, in_texas[1, 386].tolist(), strict=True) if value == 0]
print("L1/386 is silent on", ", ".join(silent))
