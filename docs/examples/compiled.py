"""Models whose circuits are known: is what was planted found again?"""

import torch

import tl_circuits as tlc
from tl_circuits.comparison import scores
from tl_circuits.comparison.recovery import average_precision
from tl_circuits.nodes import Kind
from tl_circuits.zoo.compiled import CIRCUITS, chain_at_one_token

for circuit in CIRCUITS:
    made = circuit()
    prompt = made.prompts[0]
    graph = tlc.trace(made.model, made.transcoder, prompt.tokens, [prompt.answer], progress=False)
    effects = graph.adjacency().abs()
    planted = torch.zeros_like(effects, dtype=torch.bool)
    row = {graph.nodes[number]: number for number in range(len(graph.nodes))}
    for edge in prompt.edges:
        planted[row[edge.target], row[edge.source]] = True
    found = average_precision(effects.flatten(), planted.flatten())
    print(f"{circuit.__name__}: {int(planted.sum())} of {planted.numel()} pairs are edges, AUPRC {found:.2f}")

# The features of both words carry the answer: one word's by being active, the other's by being silent.
made = chain_at_one_token()
words, answers = (torch.cat([p.tokens for p in made.prompts]), torch.tensor([p.answer for p in made.prompts]))
task = tlc.Task("chain", words, words.flip(0), answers, answers.flip(0))
basis = tlc.Basis.features(made.model, made.transcoder)
nodes = {node for p in made.prompts for edge in p.edges for node in (edge.source, edge.target)}
for scorer in ("ig-inputs", "attribution-patching"):
    found = scores(made.model, basis, task, scorer)
    truth = [torch.zeros(part.shape[1:], dtype=torch.bool) for part in found]
    for node in nodes:
        if node.kind == Kind.FEATURE:
            truth[node.layer][node.pos, node.index] = True
    every = torch.cat([part.flatten() for part in truth])
    by_prompt = torch.cat([part.abs().flatten(1) for part in found], dim=1)
    shown = ", ".join(f"{average_precision(scored, every):.2f}" for scored in by_prompt)
    print(f"{scorer}: {int(every.sum())} of {len(every)} features are planted, AUPRC by prompt {shown}")
