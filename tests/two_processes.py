"""Training runs shared by processes: `python -m tests.two_processes RANK SIZE PORT OUT CASES [END]`.

CASES is a JSON object: by name, the settings, how many share the features, and a folder or null. With END, the last
process ends as it takes its fourth step: "killed", or, for others that wait no longer than 2 s, "silent" for 6 s.
"""

import json
import os
import signal
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from tests.models import D_VOCAB, bridge
from tl_circuits.training import TrainingSettings, shards, train
from tl_circuits.training.run import Run, Step


def tokens() -> torch.Tensor:
    """Random prompts."""
    return torch.randint(3, D_VOCAB, (24, 8), generator=torch.Generator().manual_seed(5))


def ending(how: str, last: bool) -> None:
    """Has the last process end in this way."""
    advance = Run.advance

    def ended(run: Run) -> Step:
        if last and run.step == 3:
            if how == "silent":
                time.sleep(6)
            os.kill(os.getpid(), signal.SIGKILL)
        return advance(run)

    setattr(Run, "advance", ended)  # noqa: B010
    if how == "silent":
        shards.PATIENCE = timedelta(seconds=2)


def main() -> None:
    """Joins the others, trains each case, and writes the weights of each down."""
    rank, size, port, out, cases, *how = sys.argv[1:]
    every = 200
    for each in how:
        ending(each, last=int(rank) == int(size) - 1)
        every = 2
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=int(rank),
        world_size=int(size),
        timeout=timedelta(seconds=600),
    )
    for name, (told, n_shards, folder) in json.loads(cases).items():
        settings = TrainingSettings(**told)
        found = train(
            bridge("gpt2", torch.float32), tokens(), settings, shards=n_shards, folder=folder, checkpoint_every=every
        )
        weights = {parameter: p.detach().contiguous() for parameter, p in found.named_parameters()}
        save_file(weights, f"{out}/{name}.{rank}")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
