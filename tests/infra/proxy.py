"""A TCP proxy on loopback that can lose what a network loses: the request, or the reply after success."""

import contextlib
import socket
import threading


class Proxy:
    """Forwards to ``port`` until it is told to cut. One thread a direction of each connection."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._needle: bytes | None = None
        self._delivers = False
        self.cuts = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_at(self, needle: bytes, *, delivers: bool) -> None:
        """Cut the connection whose client next sends ``needle``, after or before it was delivered and answered."""
        self._needle, self._delivers = needle, delivers

    def close(self) -> None:
        """Accept nobody any more."""
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                threading.Thread(target=self._forward, args=(client, server), daemon=True).start()
                threading.Thread(target=self._return, args=(server, client), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := client.recv(65_536):
                if self._needle is not None and self._needle in content:
                    self._needle = None
                    self.cuts += 1
                    client.shutdown(socket.SHUT_RDWR)  # the reply finds nobody
                    if self._delivers:
                        server.sendall(content)
                        server.shutdown(socket.SHUT_WR)
                    else:
                        server.shutdown(socket.SHUT_RDWR)
                    return
                server.sendall(content)
            server.shutdown(socket.SHUT_WR)

    def _return(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := server.recv(65_536):
                client.sendall(content)
        for end in (server, client):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
