"""How much of the demo is left where its MLPs are replaced: a cross-layer transcoder and a per-layer one."""

import random

import tl_circuits as tlc
from tl_circuits.zoo.world import world

held_out = random.Random(0).sample(world().held_out, 200)
prompts = {kind: [p.text for p in held_out if p.kind == kind] for kind in ("two-hop", "addition")}

model, clt = tlc.demo()
report = tlc.evaluate(model, clt, prompts)
print(report)

plt = tlc.demo(transcoder="plt")[1]
per_layer = tlc.evaluate(model, plt, prompts, each_layer=True)
for name, one in (("CLT", report.overall), ("PLT", per_layer.overall)):
    kl, fvu = one.last_kl.value, one.fvu.value
    print(f"{name}: KL at the answer {kl.value:.3f} [{kl.low:.3f}, {kl.high:.3f}], FVU {fvu.value:.3f}")
alone = [layer.agreement.value for layer in per_layer.overall.layers if layer.agreement is not None]
print("agreement where one MLP is replaced by the PLT:", ", ".join(f"{value:.3f}" for value in alone))
