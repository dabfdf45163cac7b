"""Train a cross-layer transcoder on texts, see what it is worth, keep it, load it, and trace with it."""

import tempfile
from pathlib import Path

import tl_circuits as tlc
from tl_circuits.training.plan import plan
from tl_circuits.zoo.world import world

model, _ = tlc.demo()  # any HookedTransformer or TransformerBridge
texts = [question.text for question in world().of("two-hop")]
unseen = [question.text for question in world().of("two-hop", held_out=True)][:64]

settings = tlc.TrainingSettings.preset("topk", features=128, k=8, steps=150, batch_tokens=512)
taken = plan(model, settings, n_tokens=20_000)
print(f"{taken.parameters} parameters; it {taken.verdict}")

out = Path(tempfile.mkdtemp())
clt = tlc.train(model, texts, settings, folder=out / "run", cache=out / "activations")
print("in the run's folder:", ", ".join(sorted(path.name for path in (out / "run").iterdir())))

report = tlc.training_report(model, clt, unseen)
kept = report.fidelity.overall.last_agreement
print("more of its answers are kept than with ablated MLPs:", kept.value.value > kept.floor.value + 0.2)
print("lower layers write a share of", len([share for share in report.across if share > 0]), "MLPs")

tlc.save_transcoder(clt, out / "clt")
clt = tlc.load_transcoder(out / "clt")
graph = tlc.trace(model, clt, unseen[0])
print("a graph of it explains more than half:", graph.scores().completeness > 0.5)
