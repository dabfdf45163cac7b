"""The built viewer in node, asked line by line."""

import json
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tl_circuits.page.document import ASSETS

NODE = shutil.which("node")
NO_NODE = "node is not on this machine: install Node.js 20 or later to compare the viewer with Python"


class Engine:
    """One node process with the viewer loaded."""

    def __enter__(self) -> Self:
        command = [str(NODE), str(Path(__file__).with_suffix(".js")), str(ASSETS / "viewer.js")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.communicate(timeout=60)

    def ask(self, what: str, **given: Any) -> Any:
        """The viewer's answer. Fails with its stack where it failed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"what": what, **given}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert "failed" not in answer, answer["failed"]
        return answer["answer"]
