"""A stand-in for the Hugging Face Hub: one model, from a folder, and a list of what it was asked for."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789" * 4


@contextmanager
def hub_with(model: str, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield (address, requests so far) of a Hub that has one model."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    server.model, server.folder, server.asked = model, folder, []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Hub(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        server: Any = self.server
        server.asked.append(f"{self.command} {self.path}")
        status, content, headers = self._find(server.model, server.folder)
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def _find(self, model: str, folder: Path) -> tuple[int, bytes, dict[str, str]]:
        path = self.path.split("?")[0]
        if path.startswith(f"/api/models/{model}/tree/"):
            tree = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": file.name}
                for file in sorted(folder.iterdir())
            ]
            return 200, json.dumps(tree).encode(), {"Content-Type": "application/json"}
        if path.startswith(f"/api/models/{model}"):
            files = [{"rfilename": file.name} for file in sorted(folder.iterdir())]
            about = {"id": model, "sha": COMMIT, "siblings": files}
            return 200, json.dumps(about).encode(), {"Content-Type": "application/json"}
        file = folder / path.rpartition("/")[2]
        if path.startswith(f"/{model}/resolve/") and file.is_file():
            content = file.read_bytes()
            return 200, content, {"ETag": f'"{sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        return 404, b"", {"X-Error-Code": "EntryNotFound"}

    def log_message(self, *_: object) -> None: ...
