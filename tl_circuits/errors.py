"""What can go wrong, as a tree.

    TLCircuitsError
     ├─ FitError       the model and the transcoder do not fit, or the model cannot be traced
     ├─ PromptError    the prompt cannot be run
     ├─ TargetError    what was to be explained does not exist
     ├─ SettingError   a number or a name outside what a function takes
     ├─ FileError      a file or folder cannot be read or written
     └─ GraphError     a graph was asked for what it does not hold

Every message quotes what was given, the numbers that disagree and the next thing to try.
"""

import warnings


class TLCircuitsError(Exception):
    """The root of every error that tl_circuits raises on purpose."""


class FitError(TLCircuitsError):
    """The model and the transcoder do not fit each other, or the model cannot be traced."""


class PromptError(TLCircuitsError):
    """The prompt cannot be run by this model."""


class TargetError(TLCircuitsError):
    """A target to explain does not exist on this prompt or in this vocabulary."""


class SettingError(TLCircuitsError):
    """A setting lies outside what the function takes."""


class FileError(TLCircuitsError):
    """A file or folder cannot be read, trusted or written."""


class GraphError(TLCircuitsError):
    """A graph was asked for a node, an edge or a size that it does not hold."""


class TLCircuitsWarning(UserWarning):
    """Something works, but less exactly than it could."""


_SAID: set[str] = set()


def warn_once(message: str, *, stacklevel: int) -> None:
    """Warns (`TLCircuitsWarning`) unless this process has been told the same already.

    Python's own filters forget what they have shown whenever somebody enters `warnings.catch_warnings`.
    """
    if message not in _SAID:
        _SAID.add(message)
        warnings.warn(message, TLCircuitsWarning, stacklevel=stacklevel + 1)
