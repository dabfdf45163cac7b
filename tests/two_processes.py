"""Training runs shared by processes: `python -m tests.two_processes RANK SIZE PORT OUT CASES`.

CASES is a JSON object: by name, the settings, how many share the features, and a folder or null.
"""

import json
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from tests.models import D_VOCAB, bridge
from tl_circuits.training import TrainingSettings, train


def tokens() -> torch.Tensor:
    """Random prompts."""
    return torch.randint(3, D_VOCAB, (24, 8), generator=torch.Generator().manual_seed(5))


def main() -> None:
    """Joins the others, trains each case, and writes the weights of each down."""
    rank, size, port, out, cases = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=int(rank),
        world_size=int(size),
        timeout=timedelta(seconds=600),
    )
    for name, (told, shards, folder) in json.loads(cases).items():
        settings = TrainingSettings(**told)
        found = train(bridge("gpt2", torch.float32), tokens(), settings, shards=shards, folder=folder)
        weights = {parameter: p.detach().contiguous() for parameter, p in found.named_parameters()}
        save_file(weights, f"{out}/{name}.{rank}")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
