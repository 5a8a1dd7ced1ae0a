"""A proxy that hospitals go through, for tests."""

import contextlib
import socket
import threading


class Proxy:
    """A CONNECT proxy on loopback: what hospitals reached through it, and bytes; `cut` ends connections after some."""

    def __init__(self, cut=None):
        self.listener, self.asked, self.cut = socket.create_server(("127.0.0.1", 0)), [], cut
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self._tunnel, args=(connection,), daemon=True).start()

    def _tunnel(self, client):
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(2**12)
        method, target, _ = head.split(b" ", 2)
        self.asked.append((method.decode(), target.decode()))
        host, port = target.decode().rsplit(":", 1)
        try:
            hub = socket.create_connection((host, int(port)))
        except OSError:
            client.sendall(b"HTTP/1.1 502 Bad gateway\r\n\r\n")
            client.close()
            return
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        threading.Thread(target=self._copy, args=(hub, client), daemon=True).start()
        self._copy(client, hub, self.cut)

    def _copy(self, one, other, cut=None):
        passed = 0
        with contextlib.suppress(OSError):
            while data := one.recv(2**14):
                passed += len(data)
                if cut is not None and passed > cut:
                    break
                other.sendall(data)
        for its in (one, other):
            with contextlib.suppress(OSError):
                its.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.listener.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
