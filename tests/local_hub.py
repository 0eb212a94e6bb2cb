"""A stand-in for the Hugging Face Hub on this machine: `python local_hub.py [PORT]` prints its address and serves until killed.

Repositories live in memory. The user `shop` has the token `hf_shop`, `rival` has `hf_rival`. All may read what is neither
private nor named `gated-...`; a repository named `full-...` takes no large file, one named `slow-...` takes its time.
"""

import base64
import hashlib
import json
import re
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import yaml


USERS = {None: None, "Bearer hf_shop": "shop", "Bearer hf_rival": "rival"}
LARGE = (".safetensors", ".parquet", ".pt", ".pth")  # kinds of file that go to the large file storage
REPOSITORY = re.compile(r"/(?:api/)?(?:(models|datasets)/)?([^/]+/[^/]+?)(?:\.git)?(?:/(.+))?")


class Refusal(Exception):
    """An answer that is no success: status, `X-Error-Code`, `X-Error-Message`."""


class Commit(NamedTuple):
    oid: str
    title: str
    files: dict[str, bytes]


class Repository:
    def __init__(self, private: bool):
        self.private = private
        self.branches = {"main": [Commit("0" * 40, "initial commit", {})]}

    def at(self, revision: str) -> Commit:
        found = {commit.oid: commit for commits in self.branches.values() for commit in commits}
        found |= {branch: commits[-1] for branch, commits in self.branches.items()}
        if revision not in found:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found[revision]


def file_entry(path: str, content: bytes) -> dict:
    """A file as listings show it."""
    sha1 = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
    entry = {"type": "file", "path": path, "size": len(content), "oid": sha1}
    if path.endswith(LARGE):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return entry


def content_id(path: str, content: bytes) -> str:
    entry = file_entry(path, content)
    return entry.get("lfs", entry)["oid"]


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    repositories: dict[tuple[str, str], Repository] = {}
    large_files: dict[str, bytes] = {}

    def respond(self) -> None:
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            if (token := self.headers.get("Authorization")) not in USERS:
                raise Refusal(401, "", "Invalid credentials in Authorization header")
            self.user = USERS[token]
            if url.path == "/api/validate-yaml":
                self.validate(json.loads(self.body)["content"])
            elif url.path == "/api/repos/create":
                self.create(json.loads(self.body))
            elif self.command == "PUT":  # to an address of the large file storage, which takes no token
                self.store(url.path)
            elif match := REPOSITORY.fullmatch(url.path):
                self.kind, self.name, action = match[1] or "models", match[2], match[3] or ""
                method = "GET" if self.command == "HEAD" else self.command
                self.route([method, *(unquote(part) for part in action.split("/"))])
            else:
                raise Refusal(404, "", f"no such page: {self.path}")
        except Refusal as refusal:
            status, code, message = refusal.args
            self.send(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message})

    do_GET = do_HEAD = do_POST = do_PUT = respond

    def route(self, action: list[str]) -> None:
        repository = self.repository(to_write=action[0] == "POST")
        match action:
            case ["GET", ""] | ["GET", "revision", _]:
                commit = repository.at(action[-1] or "main")
                about = {"id": self.name, "sha": commit.oid, "private": repository.private, "tags": []}
                self.send(200, about | {"siblings": [{"rfilename": path} for path in commit.files]})
            case ["GET", "commits", revision]:
                commits = reversed(repository.branches[revision])
                self.send(200, [{"id": commit.oid, "title": commit.title} for commit in commits])
            case ["GET", "tree", revision, *folder]:
                self.send(200, self.listing(repository.at(revision).files, "".join(f"{part}/" for part in folder)))
            case ["GET", "resolve", revision, *path]:
                self.download(repository.at(revision), "/".join(path))
            case ["POST", "branch", branch]:
                status = 409 if branch in repository.branches else 200
                repository.branches.setdefault(branch, [*repository.branches["main"]])
                self.send(status, {})
            case ["POST", "preupload", revision]:
                self.send(200, {"files": self.upload_modes(repository.at(revision).files)})
            case ["POST", "info", "lfs", "objects", "batch"]:
                objects = json.loads(self.body)["objects"]
                for wanted in objects:
                    href = f"{self.address}/{self.name}/large/{wanted['oid']}"
                    wanted["actions"] = {"upload": {"href": href, "header": {}}}
                self.send(200, {"transfer": "basic", "objects": objects})
            case ["POST", "commit", revision]:
                self.commit(repository, revision)
            case _:
                raise Refusal(404, "", f"no such page: {self.path}")

    def repository(self, to_write: bool) -> Repository:
        owner = self.name.split("/")[0]
        found = self.repositories.get((self.kind, self.name))
        if found is None or (found.private and self.user != owner):
            raise Refusal(404 if self.user else 401, "RepoNotFound", "Repository not found")
        if to_write and self.user != owner:
            raise Refusal(403 if self.user else 401, "", f"You have no write access to {self.name}.")
        return found

    def validate(self, card: str) -> None:
        head = re.match(r"---\n(.*?)\n---", card, flags=re.DOTALL)
        errors = []
        try:
            yaml.safe_load(head[1] if head else "")
        except yaml.YAMLError as error:
            errors.append({"message": str(error)})
        self.send(400 if errors else 200, {"errors": errors, "warnings": []})

    def create(self, wanted: dict) -> None:
        if self.user is None:
            raise Refusal(401, "", "Invalid username or password.")
        name = f"{wanted.get('organization') or self.user}/{wanted['name']}"
        if not name.startswith(f"{self.user}/"):
            raise Refusal(403, "", f"You don't have the rights to create a repository under the namespace of {name}.")
        kind = f"{wanted.get('type') or 'model'}s"
        status = 409 if (kind, name) in self.repositories else 200
        private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        self.repositories.setdefault((kind, name), Repository(private))
        self.send(status, {"url": f"{self.address}/{'' if kind == 'models' else kind + '/'}{name}", "name": name})

    def store(self, address: str) -> None:
        if "/full-" in address:
            raise Refusal(403, "", "Storage limit reached.")
        self.large_files[address.rsplit("/", 1)[1]] = self.body
        self.send(200, {})

    def upload_modes(self, there: dict[str, bytes]) -> list[dict]:
        if "/slow-" in self.name:
            time.sleep(0.3)
        modes = []
        for path in (file["path"] for file in json.loads(self.body)["files"]):
            mode = {"path": path, "uploadMode": "lfs" if path.endswith(LARGE) else "regular", "shouldIgnore": False}
            modes.append(mode | ({"oid": content_id(path, there[path])} if path in there else {}))
        return modes

    def commit(self, repository: Repository, revision: str) -> None:
        title, files = "", dict(repository.at(revision).files)
        for line in map(json.loads, self.body.splitlines()):
            match line["key"], line["value"]:
                case "header", header:
                    title = header["summary"]
                case "file", file:
                    files[file["path"]] = base64.b64decode(file["content"])
                case "lfsFile", file:
                    files[file["path"]] = self.large_files[file["oid"]]
                case "deletedFile", file:
                    del files[file["path"]]
        branch = repository.branches[revision]
        oid = hashlib.sha1(f"{self.kind}/{self.name}@{revision}, {len(branch)}".encode()).hexdigest()
        branch.append(Commit(oid, title, files))
        self.send(200, {"commitUrl": f"{self.address}/{self.name}/commit/{oid}", "commitOid": oid})

    def listing(self, files: dict[str, bytes], folder: str) -> list[dict]:
        entries = {}
        for path, content in files.items():
            inner, slash, _ = path.removeprefix(folder).partition("/")
            if path.startswith(folder) and slash and self.query.get("recursive") != ["true"]:
                entries[inner] = {"type": "directory", "path": folder + inner, "oid": "0" * 40}
            elif path.startswith(folder):
                entries[path] = file_entry(path, content)
        if folder and not entries:
            raise Refusal(404, "EntryNotFound", f"{folder} does not exist")
        return list(entries.values())

    def download(self, commit: Commit, path: str) -> None:
        if "/gated-" in self.name and not self.name.startswith(f"{self.user}/"):
            raise Refusal(403 if self.user else 401, "GatedRepo", f"Access to {self.name} is restricted.")
        headers = {"X-Repo-Commit": commit.oid}
        if path not in commit.files:
            return self.send(404, {}, headers | {"X-Error-Code": "EntryNotFound"})
        self.send(200, commit.files[path], headers | {"ETag": f'"{content_id(path, commit.files[path])}"'})

    @property
    def address(self) -> str:
        return f"http://{self.headers['Host']}"

    def send(self, status: int, content: bytes | dict | list, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if sys.argv[1:] else 0), Hub)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
