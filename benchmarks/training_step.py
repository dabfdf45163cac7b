"""How much processor time does a training step cost, dense and sparse, and beside other trainers' model classes?

    python -m benchmarks.training_step --size A --l0 30
    python -m benchmarks.training_step --size B --peer crosslayer-transcoder=PATH_OF_ITS_CHECKOUT

Random data, all in memory, one thread, fused Adam. Thresholds are set so that as many features as asked for are on per
token, and the learning rate so low that they stay. Of `--peer` programs, only the model class, its own loss and its
optimizer run: `benchmarks/training_peers.py` says how each is called. Programs take turns, each turn in a process of
its own. Times are processor seconds per thousand tokens, medians over all steps but the first of each turn; memory is
the most that a process held.
"""

import argparse
import ctypes
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import peak_mib
from benchmarks.record import Record, add_options, median, say, settings
from benchmarks.training_peers import LR, PEERS, Shape
from tl_circuits.training.codes import Backend
from tl_circuits.training.optimizer import Optimizer
from tl_circuits.training.rules import Rule
from tl_circuits.training.step import Costs, passed
from tl_circuits.training.weights import Architecture, Weights, initial

SIZES = {"A": Shape(12, 768, 2048), "B": Shape(6, 512, 4096), "tiny": Shape(3, 16, 64)}
QUESTION = "How much processor time does a training step cost, dense and sparse, and beside other trainers?"


def large_allocations_stay() -> None:
    """Lets glibc keep large blocks instead of returning each to the system: for every program measured, or for none."""
    libc = ctypes.CDLL("libc.so.6")
    for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 2**28)):
        libc.mallopt(option, value)


def random_weights(shape: Shape, l0: int, seed: int) -> Weights:
    """Random decoders, and thresholds that `l0` of a layer's features pass on random data."""
    draw = torch.Generator().manual_seed(seed)
    sharp = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(1 - l0 / shape.features)).item()
    architecture = Architecture(shape.n_layers, shape.d_model, shape.features, shape.n_layers)
    weights = initial(architecture, sharp, draw)
    for name, parameter in weights.parameters.items():
        if name.startswith("W_enc"):
            parameter.copy_(torch.randn(parameter.shape, generator=draw) / shape.d_model**0.5)
        if name.startswith("W_dec"):
            reach = (shape.n_layers * shape.d_model) ** -0.5
            parameter.uniform_(-reach, reach, generator=draw)
    weights.require_grad(True)
    return weights


def ours(shape: Shape, l0: int, bandwidth: float, backend: Backend, low_memory: bool) -> Callable[..., Any]:
    """One step of ours: forward, loss, backward, optimizer."""
    weights = random_weights(shape, l0, seed=0)
    optimizer = Optimizer(weights, low_memory=low_memory)
    optimizer.set_lr(LR)
    rule, costs = Rule("jump_relu", bandwidth=bandwidth), Costs()

    def step(x: torch.Tensor, y: torch.Tensor) -> float:
        batch = passed(weights, x, y, rule, backend, costs=costs)
        (batch.reconstruction + 1e-3 * batch.cost).backward()
        optimizer.step()
        return sum(batch.l0()) / shape.n_layers

    return step


def gradients(shape: Shape, l0: int, bandwidth: float, tokens: int, backend: Backend) -> dict[str, torch.Tensor]:
    """The gradients of the first step."""
    weights = random_weights(shape, l0, seed=0)
    x, y = data(shape, tokens)
    batch = passed(weights, x, y, Rule("jump_relu", bandwidth=bandwidth), backend, costs=Costs())
    (batch.reconstruction + 1e-3 * batch.cost).backward()
    return {name: p.grad for name, p in weights.parameters.items() if p.grad is not None}


def timed(step: Callable[..., Any], shape: Shape, tokens: int, steps: int) -> dict[str, Any]:
    """Processor seconds per thousand tokens of each step but the first, what the last one returned, and the peak."""
    x, y = data(shape, tokens)
    seconds, said = [], None
    for number in range(steps + 1):
        began = time.process_time()
        said = step(x, y)
        if number:
            seconds.append((time.process_time() - began) * 1000 / tokens)
    return {"seconds_per_1k_tokens": seconds, "l0": said, "peak_gib": peak_mib() / 2**10}


OURS: dict[str, tuple[Backend, bool]] = {
    "ours, sparse": ("sparse", False),
    "ours, sparse, low memory": ("sparse", True),
    "ours, dense": ("dense", False),
    "ours, dense, low memory": ("dense", True),
}


def turn(name: str, checkout: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One program's steps, in this process."""
    torch.set_num_threads(1)
    if arguments.malloc:
        large_allocations_stay()
    shape, l0, bandwidth = SIZES[arguments.size], arguments.l0, arguments.bandwidth
    step = (
        ours(shape, l0, bandwidth, *OURS[name]) if name in OURS else PEERS[name](Path(checkout), shape, l0, bandwidth)
    )
    return timed(step, shape, arguments.tokens, arguments.steps)


def measured(arguments: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """The turns of every program, one after another, so that all see the same machine."""
    checkouts = dict.fromkeys(OURS, "") | dict(given.split("=", 1) for given in arguments.peer)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in checkouts}
    for number in range(arguments.runs):
        for name, checkout in checkouts.items():
            found[name].append(alone(turn, name, checkout, arguments))
            say(f"{number}, {name}: {found[name][-1]}")
    return found


def disagreement(arguments: argparse.Namespace) -> float:
    """The largest difference between dense and sparse gradients, relative to the largest gradient of the parameter."""
    torch.set_num_threads(1)
    shape = SIZES[arguments.size]
    both = (gradients(shape, arguments.l0, arguments.bandwidth, 64, backend) for backend in ("dense", "sparse"))
    dense, sparse = both
    return max(float((dense[n] - sparse[n]).abs().max() / dense[n].abs().max().clamp_min(1e-30)) for n in dense)


def alone(work: Callable[..., Any], *given: Any) -> Any:
    """What a fresh process returns: its memory and its allocator's habits are no other program's."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, given)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_step", description=__doc__)
    parser.add_argument(
        "--size", choices=SIZES, default="B", help="A: 12 layers, 768 wide, 2048 features; B: 6, 512, 4096"
    )
    parser.add_argument("--l0", type=int, default=30, help="features on per token and layer")
    parser.add_argument("--bandwidth", type=float, default=0.2, help="of the thresholds' estimate")
    parser.add_argument("--tokens", type=int, default=512, help="per step")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PATH", help=f"also: {', '.join(PEERS)}")
    parser.add_argument("--malloc", action="store_true", help="let the allocator keep large blocks, for every program")
    parser.add_argument("--steps", type=int, default=2, help="timed in each of the --runs turns of a program")
    add_options(parser, runs=2)
    arguments = parser.parse_args()
    found = measured(arguments)
    times = {name: median(s for one in of for s in one["seconds_per_1k_tokens"]) for name, of in found.items()}
    figures = {"processor seconds per 1k tokens": times, "mean L0": {name: of[0]["l0"] for name, of in found.items()}}
    figures["times the sparse step"] = {name: seconds / times["ours, sparse"] for name, seconds in times.items()}
    figures["peak GiB"] = {name: max(one["peak_gib"] for one in of) for name, of in found.items()}
    figures["largest relative difference of gradients, dense and sparse"] = alone(disagreement, arguments)
    peers = {given.partition("=")[0]: "model class, of a checkout" for given in arguments.peer}
    record = Record(
        QUESTION, "training_step", vars(SIZES[arguments.size]), settings(arguments, "peer"), figures, found, seed=0,
        peer=peers,
    )  # fmt: skip
    record.write(arguments.out, f"training_step-{arguments.size}-l0-{arguments.l0}")


def data(shape: Shape, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random inputs and outputs of all layers."""
    draw = torch.Generator().manual_seed(1)
    x, y = (torch.randn(shape.n_layers, tokens, shape.d_model, generator=draw) for _ in range(2))
    return x, y


if __name__ == "__main__":
    main()
