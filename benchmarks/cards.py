"""How much memory and time do the feature cards of 100,000 tokens take, and does memory grow with the tokens?

    python -m benchmarks.cards                    # the demo, all 2,304 features, 10,000 and 100,000 tokens of its world

Each measurement is a process of its own, whose peak is counted from when model and transcoder are loaded and one pass
has been run. Processor seconds are those of all its threads.
"""

import argparse
import json
import subprocess
import sys
from typing import Any

from benchmarks.record import ROOT, Record, add_options, median, numbers, say, settings

QUESTION = (__doc__ or "").splitlines()[0]


def main(argv: list[str] | None = None) -> None:
    """Measures each number of tokens in processes of their own, and stores."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--tokens", type=numbers, default=[10_000, 100_000], help="of the streams")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    add_options(parser, runs=3)
    arguments = parser.parse_args(argv)
    if arguments.one:
        print(json.dumps(_measure(arguments.one)))
        return
    rows = [_run(n_tokens) for n_tokens in arguments.tokens for _ in range(arguments.runs)]
    record = Record(
        question=QUESTION,
        script="cards",
        case={"model": "demo", "n_features": rows[0]["n_features"], "streams": "the demo's world, repeated"},
        settings=settings(arguments, "one"),
        figures={"rows": [_figures([row for row in rows if row["asked"] == n]) for n in arguments.tokens]},
        measured={"rows": rows},
        seed=0,
    )
    record.write(arguments.out, "cards")


def _run(n_tokens: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.cards", "--one", str(n_tokens)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    row = json.loads(found.stdout.splitlines()[-1])
    say(f"{row['n_tokens']:,} tokens: {row['growth_mib']:.0f} MiB, {row['cpu_s']:.1f} s")
    return row


def _figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    named = ("growth_mib", "planned_mib", "cpu_s", "wall_s")
    return {"n_tokens": rows[0]["n_tokens"], "runs": len(rows)} | {
        name: median(row[name] for row in rows) for name in named
    }


def _measure(n_tokens: int) -> dict[str, Any]:
    import itertools
    import resource
    import time

    import torch

    import tl_circuits as tlc
    from tl_circuits.features import collect
    from tl_circuits.zoo.cards import world_texts
    from tl_circuits.zoo.world import world

    torch.set_num_threads(1)
    model, clt = tlc.demo()
    texts = world_texts(world())
    tokenizer: Any = model.tokenizer
    ids = [[tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False)] for text in texts]
    ends = itertools.accumulate(len(row) - 1 for row in itertools.cycle(ids))
    n_prompts = next(number for number, end in enumerate(ends, start=1) if end >= n_tokens)
    with torch.no_grad():
        width = max(map(len, ids))
        model(torch.tensor([(row * width)[:width] for row in ids[: collect.TOKENS_PER_PASS // width]]))
    before = _peak_mib(resource)
    start, cpu = time.perf_counter(), time.process_time()
    cards = tlc.feature_cards(model, clt, itertools.islice(itertools.cycle(ids), n_prompts))
    wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    kept = collect._settings(12, 5, 4, 24, 8, 10, 64, 0)
    return {
        "asked": n_tokens,
        "n_tokens": cards.contexts.n_tokens,
        "n_features": len(cards),
        "growth_mib": _peak_mib(resource) - before,
        "planned_mib": len(cards) * kept.bytes_per_feature() / 2**20,
        "cpu_s": cpu_s,
        "wall_s": wall_s,
    }


def _peak_mib(resource: Any) -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


if __name__ == "__main__":
    main()
