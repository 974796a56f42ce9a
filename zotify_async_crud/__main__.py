"""The entry point of the command line, which tells how to install what it needs."""

from __future__ import annotations

import os
import sys

_EXTRA = frozenset({"cyclopts", "ijson", "rich"})
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_PIPE_CLOSED = 141  # 128 + SIGPIPE


def main() -> None:
    """Run the command line and exit."""
    try:
        from zotify_async_crud import cli  # noqa: PLC0415 - what it needs may be missing

        code = cli.main()
        sys.stdout.flush()  # here, and not where Python ends
        sys.exit(code)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        sys.exit("The command line needs an extra: pip install 'zotify-async-crud[cli]'")
    except BrokenPipeError:
        # who reads has enough, such as head; what is left has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_PIPE_CLOSED)
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted: run the same command again to go on\n")
        sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
