"""The command line: `threadmill COMMAND`; `program.COMMANDS` has them all.

Others script against it: names, options, exit codes and the two `*.ready` log lines are
part of the interface (docs/reference/cli.md). Each command is one file. They share how
a project is read (`project`), how a process lives and ends (`life`) and what a process
of the fleet runs (`member`). `dev` is more than one file: it supervises a child
(`dev_supervisor`, `dev_child`, the `lifeline` between them) and watches `sources`.

Importing this package loads nothing, so that `--help` answers at once.
"""


def main() -> None:
    """Runs the command line; the entry of the `threadmill` program."""
    import sys

    from threadmill.cli.life import end_within
    from threadmill.cli.program import run
    from threadmill.domain.draining import THREADS_SECONDS

    code = run(sys.argv[1:])
    # Python's own exit waits for threads; the graphs' code may have left some.
    end_within(THREADS_SECONDS, code)
    sys.exit(code)
