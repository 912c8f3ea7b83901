"""A TCP proxy on loopback that can lose what a network loses: the request, the reply after success, or all news."""

import contextlib
import socket
import threading


class Proxy:
    """Forwards to ``port`` until it is told to cut, or to be silent. One thread a direction of each connection."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._needle: bytes | None = None
        self._delivers = False
        self._keeps = False
        self.cuts = 0
        self._silent: set[socket.socket] = set()
        self._open: set[socket.socket] = set()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_at(self, needle: bytes, *, delivers: bool) -> None:
        """Cut the connection whose client next sends ``needle``, after or before it was delivered and answered."""
        self._needle, self._delivers, self._keeps = needle, delivers, False

    def fall_silent_at(self, needle: bytes, *, delivers: bool) -> None:
        """Likewise, and keep the connection open: the client hears nothing any more."""
        self._needle, self._delivers, self._keeps = needle, delivers, True

    def fall_silent(self) -> None:
        """Keep the connections that are open now, and forward nothing more on them."""
        self._silent |= self._open

    def close(self) -> None:
        """Accept nobody any more."""
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                self._open.add(client)
                server = socket.create_connection(("127.0.0.1", self._target))
                threading.Thread(target=self._forward, args=(client, server), daemon=True).start()
                threading.Thread(target=self._return, args=(server, client), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := client.recv(65_536):
                if client in self._silent:
                    continue
                if self._needle is not None and self._needle in content:
                    self._needle = None
                    self.cuts += 1
                    if self._keeps:
                        self._silent.add(client)
                    else:
                        client.shutdown(socket.SHUT_RDWR)  # the reply finds nobody
                    if self._delivers:
                        server.sendall(content)
                    if self._keeps:
                        continue
                    server.shutdown(socket.SHUT_WR if self._delivers else socket.SHUT_RDWR)
                    return
                server.sendall(content)
            server.shutdown(socket.SHUT_WR)

    def _return(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := server.recv(65_536):
                if client not in self._silent:
                    client.sendall(content)
        self._open.discard(client)
        for end in (server, client):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
