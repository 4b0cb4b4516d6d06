"""Between services: what they say to each other goes through real sockets here, and a test decides what becomes of it.

The services of one side are found in one run directory, those of the other side in another one. For each service a
relay stands at its address on the side that it is not on, and passes subscriptions and messages on.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

import zmq

Frames = list[bytes]
Fate = Callable[[str, Frames], list[Frames]]
"""What arrives of one message, given its sender."""


def intact(_service: str, frames: Frames) -> list[Frames]:
    """Lose and change nothing."""
    return [frames]


class Relay:
    """Passes messages on from services at home in one run directory to listeners in another one, as ``fate`` says.

    ``homes`` says for each service where it is at home and where it is listened to. ``fate`` may be changed at any
    time; it is asked by one thread only.
    """

    def __init__(self, homes: Mapping[str, tuple[Path, Path]], fate: Fate = intact) -> None:
        """Stand between them from now on."""
        self.fate = fate
        self.heard: defaultdict[str, list[Frames]] = defaultdict(list)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._waiting: list[tuple[str, Frames]] = []
        self._poller = zmq.Poller()
        self._doors: dict[str, zmq.Socket[bytes]] = {}
        self._sources: dict[str, zmq.Socket[bytes]] = {}
        for service, (home, there) in homes.items():
            there.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._doors[service] = self._socket(zmq.XPUB)
            self._doors[service].setsockopt(zmq.XPUB_VERBOSE, 1)  # each new listener is to be told the last values
            self._doors[service].bind(f"ipc://{there}/{service}.sock")
            self._sources[service] = self._socket(zmq.XSUB)
            self._sources[service].connect(f"ipc://{home}/{service}.sock")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def __enter__(self) -> "Relay":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(5)
        self._context.destroy(linger=0)

    def say(self, service: str, *messages: Frames) -> None:
        """Have the relay say these messages in the place of a service."""
        self._waiting += [(service, frames) for frames in messages]

    def _socket(self, kind: int) -> "zmq.Socket[bytes]":
        found = self._context.socket(kind)
        found.linger = 0
        found.setsockopt(zmq.RECONNECT_IVL, 50)
        self._poller.register(found, zmq.POLLIN)
        return found

    def _run(self) -> None:
        while not self._stop.is_set():
            ready = dict(self._poller.poll(20))
            for service, door in self._doors.items():
                source = self._sources[service]
                while door in ready and door.poll(0):
                    source.send(door.recv())
                while source in ready and source.poll(0):
                    frames = source.recv_multipart()
                    self.heard[service].append(frames)
                    for arriving in self.fate(service, frames):
                        door.send_multipart(arriving)
            while self._waiting:
                service, frames = self._waiting.pop(0)
                self._doors[service].send_multipart(frames)


def lost(*services: str) -> Fate:
    """Lose all that these services say."""
    return lambda service, frames: [] if service in services else [frames]
