"""`threadmill queues`: how much work waits, by the labels that it needs."""

from __future__ import annotations

from threadmill.cli.console import say_json, say_table
from threadmill.cli.options import DEFAULT_CONFIG, AsJson, Config


def queues(as_json: AsJson = False, config: Config = DEFAULT_CONFIG) -> None:
    """Show how much work waits, by the labels that it needs.

    Of all tenants together. OLDEST is how long the first runnable activation has
    waited: what to scale workers by. BLOCKED waits behind its thread, which no worker
    could change.
    """
    from threadmill.cli.database import operate
    from threadmill.cli.project import settings_near

    found = operate(settings_near(config), lambda operations: operations.queues.list())
    if as_json:
        say_json([queue.as_json() for queue in found])
        return
    say_table(
        ("LABELS", "RUNNABLE", "OLDEST", "RUNNING", "BLOCKED", "DELAYED", "DEAD"),
        [
            (
                ",".join(queue.labels) or "-",
                str(queue.runnable),
                f"{queue.oldest_runnable_seconds:.1f} s",
                str(queue.running),
                str(queue.blocked),
                str(queue.delayed),
                str(queue.dead_letters),
            )
            for queue in found
        ],
    )
