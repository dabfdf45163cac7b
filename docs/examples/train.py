"""Train a small per-layer transcoder on the demo's questions, and see what it is worth."""

import torch

import tl_circuits as tlc
from tl_circuits.zoo.world import world

model, _ = tlc.demo()
known, unseen = world().of("two-hop"), world().of("two-hop", held_out=True)
tokens = torch.cat([model.to_tokens(question.text) for question in known])
settings = tlc.TrainingSettings(features=256, steps=300, batch_tokens=512, cross_layer=False)
plt = tlc.train(model, tokens, settings)
print(plt.extra_repr())

with torch.no_grad(), tlc.replace_mlps(model, plt) as features:
    said = model(torch.cat([model.to_tokens(question.text) for question in unseen]))[:, -1].argmax(-1)
    active = sum((features[layer][:, 1:] > 0).sum(-1).float().mean() for layer in range(3)) / 3
right = sum(model.to_string(token) == question.answer for token, question in zip(said, unseen, strict=True))
print(f"of {len(unseen)} unseen questions, with the MLPs replaced, more than half right:", right > len(unseen) / 2)
print("fewer than 40 of 256 features active per token:", bool(active < 40))
