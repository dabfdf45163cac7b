"""Python processes that start with the model libraries imported: importing them takes longer than what most of them do.

Each is a fresh process all the same, forked from one that has imported and done nothing else.
"""

import io
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path

IMPORTED = ["transformer_lens", "transformer_lens.model_bridge", "transformers.models.gpt2.modeling_gpt2"]
_WARM = multiprocessing.get_context("forkserver")
_WARM.set_forkserver_preload(IMPORTED)


def python(
    *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """What `python *arguments` prints and how it ends; `-m module ...` or a script's path, and what it is given.

    `env` is added to the environment once the libraries are there: what they read on import stays as it was.
    """
    with tempfile.TemporaryDirectory(prefix="tl_circuits_warm") as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = _WARM.Process(target=_run, args=(arguments, str(cwd), dict(env or {}), str(out), str(err)))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired([*arguments], timeout)
        said, warned = (path.read_text(encoding="utf-8") if path.exists() else "" for path in (out, err))
        return subprocess.CompletedProcess([*arguments], process.exitcode, said, warned)


def _run(arguments: tuple[str, ...], cwd: str, env: dict[str, str], out: str, err: str) -> None:
    os.chdir(cwd)
    os.environ.update(env)
    for path, number in ((out, 1), (err, 2)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(number, "w"), encoding="utf-8") for number in (1, 2))
    status = 0
    try:
        _as_main(arguments)
    except SystemExit as ended:
        status = _status(ended)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(status)


def _as_main(arguments: tuple[str, ...]) -> None:
    if arguments[0] == "-m":
        sys.argv = [arguments[1], *arguments[2:]]
        sys.path.insert(0, "")
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [*arguments]
        sys.path.insert(0, str(Path(arguments[0]).parent))
        runpy.run_path(arguments[0], run_name="__main__")


def _status(ended: SystemExit) -> int:
    if isinstance(ended.code, str):
        sys.stderr.write(f"{ended.code}\n")
        return 1
    return int(ended.code or 0)
