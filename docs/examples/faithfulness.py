"""Hold a graph against the model: ablations, pushes, and the strongest paths."""

import tl_circuits as tlc

model, clt = tlc.demo()
questions = [f"the capital of the state containing {city} is" for city in ("Dallas", "Oakland", "Rockford")]
local = [tlc.localize(model, clt, question) for question in questions]

report = tlc.faithfulness(local)
print(len(report.prompts), "prompts,", sum(report.features), "features ablated")
for ranking in ("influence", "activation", "direct_edge", "random_in_layer", "shuffled_graph"):
    found, among_those_that_reach_it = (report[f"{of}.kl.{ranking}.spearman"].mean for of in ("nodes", "reaching"))
    print(f"{ranking:<16} Spearman with KL {found:.2f}, of features that reach it {among_those_that_reach_it:.2f}")
for where in ("replacement", "no_mlps"):
    print(f"one block after a push, {where}: cosine {report[f'push.encoder.hop_1.{where}.residual_cosine'].mean:.1f}")

dallas = tlc.validate(tlc.attribute(local[0]), local[0], n_paths=4)
for path in dallas.paths:
    print(" → ".join(path.nodes), "is", path.verdict)
