"""The entry point of the command line, which tells how to install what it needs."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import cast

_EXTRA = frozenset({"cyclopts", "ijson", "rich"})
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_PIPE_CLOSED = 141  # 128 + SIGPIPE


def main() -> None:
    """Run the command line and exit."""
    _open_missing_streams()
    try:
        _forget_empty_variables()
        from zotify_async_crud import cli  # noqa: PLC0415 - what it needs may be missing

        code = cli.main()
        sys.stdout.flush()  # here, and not where Python ends
        sys.exit(code)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        sys.exit("The command line needs an extra: pip install 'zotify-async-crud[cli]'")
    except BrokenPipeError:
        _drop_output()  # who reads has enough, such as head
        sys.exit(_PIPE_CLOSED)
    except OSError as error:
        _drop_output()  # the disk is full, perhaps
        sys.exit(f"zotify-async-crud: {error.strerror or error}")
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted: run the same command again to go on\n")
        sys.exit(_INTERRUPTED)


def _open_missing_streams() -> None:
    """Replace standard streams that were closed before; files would be taken for them."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115
    cast(io.TextIOWrapper, sys.stdout).reconfigure(errors="backslashreplace")


def _forget_empty_variables() -> None:
    """Take a variable that is set to nothing for one that is not set, as other programs do."""
    ours = [name for name in os.environ if name.startswith("ZOTIFY_")]
    for name in [name for name in ours if not os.environ[name]]:
        del os.environ[name]


def _drop_output() -> None:
    """Let what is left, and would be written when Python ends, go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
