"""How much sooner are many prompts done by several processes than by one?

    python -m benchmarks.trace_many                     # 16 prompts of GPT-2-small's shape, one process and two
    python -m benchmarks.trace_many --processes 4
    python -m benchmarks.trace_many --of demo --prompts 60

Seconds on the clock from when every process has read the weights to when the last graph is on disk, each process on one
thread. Rounds go one process, several, one, several. The graphs of both are compared bit by bit.
CPU seconds, summed over processes, stand beside: what sharing costs, and whether the machine was busy.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open

import tl_circuits as tlc
from benchmarks.case import Case, read_case, write, write_demo
from benchmarks.record import ROOT, Machine, Record, add_options, median, say, settings

QUESTION = (__doc__ or "").splitlines()[0]
DEMO_PROMPT = "the capital of the state containing Dallas is"


def main(argv: list[str] | None = None) -> None:
    """Measures one process and several in turn."""
    parser = argparse.ArgumentParser(description=QUESTION)
    Case.add_options(parser)
    add_options(parser)
    parser.add_argument("--of", choices=("random", "demo"), default="random", help="a random case, or what ships")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--coverage", type=float, default=0.95)
    arguments = parser.parse_args(argv)
    case = Case.of(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if arguments.of == "demo":
            write_demo(folder / "case", DEMO_PROMPT, case.kind)
        else:
            write(case, folder / "case")
        runs = [_round(folder, number, arguments) for number in range(arguments.runs)]
        same = _same(folder / "0-1", folder / f"0-{arguments.processes}")
    medians = {name: median(run[name] for run in runs) for name in runs[0]}
    record = Record(
        question=QUESTION,
        script="trace_many",
        case={"model": "demo", "kind": case.kind} if arguments.of == "demo" else asdict(case),
        settings=settings(arguments, *asdict(case)),
        figures={
            "prompts": arguments.prompts,
            "processes": arguments.processes,
            **medians,
            "ratio": medians["one_s"] / medians["several_s"],
            "graphs_equal": same,
        },
        measured={"runs": runs},
        seed=case.seed,
        machine=Machine.here(threads=arguments.processes),
    )
    record.write(arguments.out, f"trace_many-{case.kind}-{'demo' if arguments.of == 'demo' else case.n_tokens}")


def _round(folder: Path, number: int, arguments: argparse.Namespace) -> dict[str, float]:
    found = {}
    for name, processes in (("one", 1), ("several", arguments.processes)):
        took = _run(folder, f"{number}-{processes}", processes, arguments)
        found[f"{name}_s"] = max(each["seconds"] for each in took)
        found[f"{name}_cpu_s"] = sum(each["cpu_s"] for each in took)
    say(f"{found['one_s']:.1f} s by one process, {found['several_s']:.1f} s by {arguments.processes}")
    return found


def _run(folder: Path, name: str, processes: int, arguments: argparse.Namespace) -> list[dict[str, float]]:
    """What each of the processes took."""
    started, outs = [], []
    for rank in range(processes):
        outs.append(folder / f"{name}-{rank}.json")
        job = {"rank": rank, "size": processes, "store": str(folder / f"{name}.store"), "out": str(outs[-1])}
        job |= {"folder": str(folder / name), "prompts": arguments.prompts, "coverage": arguments.coverage}
        command = [sys.executable, "-m", "benchmarks.trace_many", "--process", str(folder / "case"), json.dumps(job)]
        pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=ROOT, **pipes))
    errors = [process.communicate()[1] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit("A process failed:\n" + "\n".join(error[-2000:] for error in errors if error))
    return [json.loads(out.read_text()) for out in outs]


def _process(folder: Path, job: dict[str, Any]) -> None:
    """One of the processes: reads the weights, waits for the others, and traces its share."""
    torch.set_num_threads(1)
    case = read_case(folder)
    transcoder = tlc.load_transcoder(str(folder / "transcoder"))
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randint(1, case.model.cfg.d_vocab, (job["prompts"], len(case.tokens) - 1), generator=generator)
    prompts = [torch.cat([case.tokens[:1], row]) for row in drawn]
    if job["size"] > 1:
        dist.init_process_group("gloo", f"file://{job['store']}", rank=job["rank"], world_size=job["size"])
        dist.barrier()
    start, cpu = time.perf_counter(), time.process_time()
    options = {"masked_positions": case.masked, "coverage": job["coverage"], "progress": False}
    # The same for one process and several, which otherwise share what the machine has to spare.
    results = tlc.trace_many(case.model, transcoder, prompts, job["folder"], memory_budget=2**30, **options)
    took = {"seconds": time.perf_counter() - start, "cpu_s": time.process_time() - cpu}
    if results.failed:
        raise SystemExit(f"{len(results.failed)} prompts failed, first: {results.failed[0]}")
    Path(job["out"]).write_text(json.dumps(took))
    if job["size"] > 1:
        dist.destroy_process_group()


def _same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same graphs, bit by bit."""
    names = [sorted(path.name for path in folder.glob("*.graph")) for folder in (one, other)]
    if names[0] != names[1] or not names[0]:
        raise SystemExit(
            f"{len(names[0])} graphs by one process, {len(names[1])} by several, or other names. No times are compared."
        )
    return all(_contents(one / name) == _contents(other / name) for name in names[0])


def _contents(path: Path) -> tuple[dict[str, str], dict[str, bytes]]:
    """What a file holds: the file itself lists it in an order of its own each time."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        return file.metadata(), {name: value.numpy().tobytes() for name, value in tensors.items()}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--process"]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*HookedTransformer.*", category=DeprecationWarning)
            _process(Path(sys.argv[2]), json.loads(sys.argv[3]))
    else:
        main()
