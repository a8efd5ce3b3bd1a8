"""A PostgreSQL that starts with the program and ends with it; nothing to install.

The binaries come from a wheel; everything else is ours, because what stands here is
people's conversations. Three kinds of processes take part::

    owner ──┐                                 python code that calls start()
    owner ──┼── control socket ── supervisor ── postgres ── its backends
    owner ──┘                                 (own session; often another account)

* An *owner* is a process that needs the database. The first one starts the
  supervisor, later ones join it. Its open connection is its ownership, so the kernel
  gives it back however the process ends.
* The *supervisor* starts PostgreSQL, restarts it when it dies, and stops it when the
  last owner is gone.
* *postgres* asks the kernel to be told when its supervisor dies, and shuts down.

So no server outlives its owners, also when any of the three is killed with SIGKILL,
in any order. (macOS has no such death signal: there an orphaned server is stopped by
the next start.)

Read `owner` first, then `supervisor`, then `cluster`.
"""

from threadmill.drivers.embedded.layout import default_data_dir
from threadmill.drivers.embedded.owner import EmbeddedPostgres

__all__ = ["EmbeddedPostgres", "default_data_dir"]
