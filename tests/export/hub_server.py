"""A stand-in of the hub: the part of its HTTP protocol that pushing and reading use."""

import base64
import hashlib
import http.server
import json
import re
import threading

TOKEN = "hf_write"


class Hub:
    """A server on this machine.

    Attributes:
      address: "http://127.0.0.1:port".
      repositories: "owner/name" -> {path: content}.
      requests: "METHOD path" of each request, in order.
    """

    def __init__(self):
        self.repositories, self.requests, self.blobs = {}, [], {}
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, content=b"", status=200, **headers):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def may_write(self):
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self.answer({"error": "Forbidden"}, 403)
        return False

    def do_POST(self):
        hub, path = self.server_hub, self.path.partition("?")[0]
        hub.requests.append(f"POST {path}")
        content = self.body()
        if not self.may_write():
            return
        if path == "/api/repos/create":
            said = json.loads(content)
            name = f"{said.get('organization') or 'me'}/{said['name']}"
            hub.repositories.setdefault(name, {})
            self.answer({"url": f"{hub.address}/{name}", "name": name})
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = json.loads(content)["files"]
            modes = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["path"].endswith("ensors") else "regular",
                    "shouldIgnore": False,
                }
                for f in files
            ]
            self.answer({"files": modes})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {
                    **o,
                    "actions": {"upload": {"href": f"{hub.address}/lfs/{o['oid']}"}},
                }
                for o in json.loads(content)["objects"]
            ]
            self.answer(
                {"transfer": "basic", "objects": objects},
                Content_Type="application/vnd.git-lfs+json",
            )
        elif match := re.fullmatch(r"/api/models/(.+?)/commit/main", path):
            self.commit(hub.repositories[match[1]], content)
            address = f"{hub.address}/{match[1]}/commit/{'a' * 40}"
            self.answer({"commitUrl": address, "commitOid": "a" * 40})
        else:
            self.answer({"error": f"no {path}"}, 404)

    def commit(self, files, content):
        for line in content.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.server_hub.blobs[value["oid"]]

    def do_PUT(self):
        self.server_hub.requests.append("PUT lfs")
        content = self.body()
        self.server_hub.blobs[hashlib.sha256(content).hexdigest()] = content
        self.answer()

    def do_GET(self):
        hub, path = self.server_hub, self.path.partition("?")[0]
        hub.requests.append(f"{self.command} {path}")
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/.+|/tree/.+)?", path)
        if api and api[1] in hub.repositories:
            files = hub.repositories[api[1]]
            if "/tree/" in (api[2] or ""):
                entries = [
                    {"type": "file", "path": p, "oid": _oid(c), "size": len(c)}
                    for p, c in files.items()
                ]
                self.answer(entries)
                return
            siblings = [{"rfilename": name} for name in files]
            self.answer({"id": api[1], "sha": "a" * 40, "siblings": siblings})
            return
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
        if match and match[2] in hub.repositories.get(match[1], {}):
            content = hub.repositories[match[1]][match[2]]
            self.answer(content, ETag=f'"{_oid(content)}"', X_Repo_Commit="a" * 40)
            return
        self.answer({"error": "no"}, 404, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET


def _oid(content):
    return hashlib.sha1(content).hexdigest()
