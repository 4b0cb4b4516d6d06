"""A domain for the balancer's tests: an HTTP server on one loopback address, a process of its own.

``GET /healthz``: 200, or 503 while the file ``sick`` exists. ``GET /work?ms=N``: 200 after N ms.
``GET /block?ms=N``: the same, and everybody else waits too: one worker. ``/count?id=X&ms=N``: appends X to the log
*before* it waits, as a request that had its effect; with ``held=1`` until the file ``go`` beside the log exists.
``/events?ms=N``: three chunks, N ms apart. ``/ws``: an idle WebSocket. ``GET /socket`` with ``Upgrade``: 101, then
every byte comes back. Every answer names the server in X-Served-By.
"""

import asyncio
import sys
import time
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit


class App:
    def __init__(self, name: str, log: Path, sick: Path) -> None:
        self._name = name
        self._log = log
        self._sick = sick

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                _, target, _ = head.split(" ", 2)
                lengths = [line for line in head.lower().splitlines() if line.startswith("content-length:")]
                if lengths:
                    await reader.readexactly(int(lengths[0].split(":")[1]))
                if target == "/socket":
                    await self._echo(reader, writer)
                    return
                if target.startswith("/events"):
                    await self._stream(writer, int(target.partition("ms=")[2]) / 1000)
                    continue
                if target == "/ws":
                    accept = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"  # of RFC 6455's example
                    writer.write(b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + accept + b"\r\n")
                    await reader.read()
                    raise ConnectionResetError
                status = await self._answer(target)
                body = f"{self._name}\n"
                head = f"HTTP/1.1 {status} X\r\nX-Served-By: {self._name}\r\nContent-Length: {len(body)}\r\n\r\n"
                writer.write(f"{head}{body}".encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 101 X\r\nUpgrade: echo\r\nConnection: Upgrade\r\nX-Served-By: {self._name}\r\n\r\n"
        writer.write(head.encode())
        while said := await reader.read(1024):
            writer.write(said)
            await writer.drain()
        writer.close()

    async def _stream(self, writer: asyncio.StreamWriter, pause_s: float) -> None:
        writer.write(b"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            writer.write(b"9\r\ndata: x\n\n\r\n")
            await writer.drain()
            await asyncio.sleep(pause_s)
        writer.write(b"0\r\n\r\n")

    async def _answer(self, target: str) -> int:
        parts = urlsplit(target)
        args = dict(parse_qsl(parts.query))
        if parts.path == "/healthz":
            return 503 if self._sick.exists() else 200
        if parts.path == "/count":
            with self._log.open("a") as log:
                log.write(f"{args['id']}\n")
        wait_s = int(args.get("ms", "0")) / 1000
        while "held" in args and not self._log.with_name("go").exists():
            await asyncio.sleep(0.05)
        if parts.path == "/block":
            time.sleep(wait_s)
        else:
            await asyncio.sleep(wait_s)
        return 200


async def run(address: str, port: int, name: str, log: str, sick: str) -> None:
    app = App(name, Path(log), Path(sick))
    server = await asyncio.start_server(app.serve, address, port, backlog=1024)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], int(sys.argv[2]), *sys.argv[3:6]))
