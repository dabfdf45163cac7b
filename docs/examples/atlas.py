"""Several behaviours in one small model: ask it, trace it, and take prompts with counterfactuals."""

import torch

import tl_circuits as tlc
from tl_circuits.zoo.atlas import behaviours, task

torch.set_num_threads(1)
model, clt = tlc.atlas()

for behaviour in behaviours().values():
    question = behaviour.held_out[0]
    says = model.to_string(model(question.text)[0, -1].argmax())
    print(f"{behaviour.name:12} {question.text!r} {says!r}")

graph = tlc.trace(model, clt, "le contraire de small est", progress=False)
print(graph)

# As many tokens, another answer: what comparisons of circuits take.
rhymes = task(model, "rhyme", count=100)
print(repr(model.to_string(rhymes.clean[0])), repr(model.to_string(rhymes.answer[0])))
print(repr(model.to_string(rhymes.corrupted[0])), repr(model.to_string(rhymes.corrupted_answer[0])))
prefers = rhymes.measure(model(rhymes.clean)[:, -1]) > 0
print(f"of {len(rhymes)} rhymes the answer is preferred in {int(prefers.sum())}")
