"""Does a feature stand for Texas? Ask every question of the demo's world, and see where it is active."""

import torch

import tl_circuits as tlc
from tl_circuits.zoo.world import world

# Dallas is where the features were found, so it is no evidence.
questions = [question for question in world().of("two-hop") if question.city != "Dal|las"]
questions += [question for question in world().of("two-hop", held_out=True) if question.city != "Dal|las"]
relations = sorted({question.relation for question in questions})
texan = torch.tensor([question.state == "Texas" for question in questions])
asks = {relation: torch.tensor([question.relation == relation for question in questions]) for relation in relations}


def compare(transcoder: str, names: list[str]) -> None:
    """The share of questions on which features are active, by what is asked."""
    model, coder = tlc.demo(transcoder=transcoder)
    # With the errors added back, the model runs as it is.
    with torch.no_grad(), tlc.replace_mlps(model, coder, error_terms=True) as features:
        model(torch.cat([model.to_tokens(question.text) for question in questions]))
    wanted = [tlc.Feature.parse(name) for name in names]
    active = [features[feature.layer][:, feature.pos, feature.index] > 0 for feature in wanted]

    print(f"{transcoder.upper()}: active on what share of questions about Texan cities | about others")
    print(f"{'':14}", *(f"{name:>15}" for name in names))
    for asked, rows in (*asks.items(), ("all", torch.ones_like(texan))):
        shares = [[feature[rows & where].float().mean() for where in (texan, ~texan)] for feature in active]
        print(f"{asked:14}", *(f"{inside:7.0%} |{outside:6.1%}" for inside, outside in shares))


compare("clt", ["L1/386@-1", "L2/623@-1", "L2/64@-1", "L0/496@-1"])
print()
compare("plt", ["L1/386@-1"])
