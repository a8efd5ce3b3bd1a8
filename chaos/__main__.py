"""`python -m chaos`: runs the battery and prints what came of it.

Exits with 0 if every promise was kept. Otherwise with 1, and the logs stay in the
folder that is named.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from chaos.battery import ALL_FAULTS, CLIENTS, SETTLE_SECONDS, run
from chaos.brokers import BROKER_FAULTS
from chaos.chunks import CHUNK_FAULTS
from chaos.faults import FAULTS
from chaos.services import SERVICES


def main() -> int:
    """Parses the options and runs the battery.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="of faults")
    parser.add_argument("--seed", type=int, default=None, help="of order and victims")
    parser.add_argument(
        "--only", choices=ALL_FAULTS, action="append", help="only this kind; repeatable"
    )
    parser.add_argument(
        "--first", choices=ALL_FAULTS, action="append", help="before others; repeatable"
    )
    parser.add_argument(
        "--settle-seconds",
        type=float,
        default=SETTLE_SECONDS,
        help="how long runs have to end after the faults",
    )
    parser.add_argument("--clients", type=int, default=CLIENTS, help="who send at once")
    parser.add_argument(
        "--broker",
        choices=("postgres", *SERVICES),
        default="postgres",
        help="what wakes workers; it is harmed, too",
    )
    parser.add_argument(
        "--checkpoints",
        choices=("postgres", "redis"),
        default="postgres",
        help="what keeps what checkpoints hold; Redis is harmed, too",
    )
    parser.add_argument("--keep", action="store_true", help="keep the logs in any case")
    args = parser.parse_args()
    broker = None if args.broker == "postgres" else args.broker
    seed = secrets.randbelow(1_000_000) if args.seed is None else args.seed
    # PostgreSQL runs as somebody else when we are root.
    folder = Path(tempfile.mkdtemp(prefix="threadmill-chaos-"))
    folder.chmod(0o711)
    console = Console(soft_wrap=True)
    console.print(f"chaos for {args.seconds:.0f} s, seed {seed}, logs in {folder}")
    kept = False
    try:
        kept = asyncio.run(
            run(
                folder,
                seconds=args.seconds,
                seed=seed,
                kinds=args.only or _kinds(broker, args.checkpoints),
                first=args.first or (),
                console=console,
                settle_seconds=args.settle_seconds,
                clients=args.clients,
                broker=broker,
                chunks_in_redis=args.checkpoints == "redis",
            )
        )
    finally:
        if kept and not args.keep:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            console.print(f"logs are in {folder}; again with --seed {seed}")
    return 0 if kept else 1


def _kinds(broker: str | None, checkpoints: str) -> list[str]:
    """Every kind that this fleet has something for."""
    return [
        *FAULTS,
        *(BROKER_FAULTS if broker is not None else ()),
        *(CHUNK_FAULTS if checkpoints == "redis" else ()),
    ]


if __name__ == "__main__":
    sys.exit(main())
