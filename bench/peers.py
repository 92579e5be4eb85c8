# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Others that do the same work, in processes of their own, set up as one would set them up for it."""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from bench.rig import Measured, answers, free_ports, python, started

NGINX = """daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log crit;
events {{ worker_connections 1024; }}
http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000; keepalive_timeout 3600;
client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi; client_max_body_size 0;
upstream node {{ server 127.0.0.1:{node}; keepalive 64; keepalive_requests 100000000; }}
server {{ listen 127.0.0.1:{port};
location /static/ {{ alias {folder}/www/; default_type application/json; }}
location /task/new/upload/ {{ client_body_in_file_only on; client_body_buffer_size 512k; proxy_pass_request_body off;
proxy_set_header Content-Length ""; proxy_http_version 1.1; proxy_set_header Connection "";
proxy_method GET; rewrite ^ /info break; proxy_pass http://node; }}
location / {{ proxy_pass http://node; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffers 8 256k;
proxy_buffer_size 256k; proxy_busy_buffers_size 512k; proxy_max_temp_file_size 0; }} }} }}
"""
HAPROXY = """global
  nbthread 1
  tune.bufsize 262144
  maxconn 2000
defaults
  mode http
  timeout connect 5s
  timeout client 3600s
  timeout server 3600s
  option splice-auto
  http-reuse always
frontend clients
  bind 127.0.0.1:{port}
  default_backend node
backend node
  server node 127.0.0.1:{node} maxconn 1000
"""


@contextmanager
def nginx(folder: Path, node: int) -> Iterator[tuple[Measured, int, Path]]:
    """nginx in front of a node: its port, and the folder that it serves below /static/."""
    own = folder / "nginx"
    (own / "www").mkdir(parents=True)
    (own / "body").mkdir()
    (own / "body").chmod(0o777)
    port = free_ports(1)
    config = own / "nginx.conf"
    config.write_text(NGINX.format(folder=own, port=port, node=node))
    with started("nginx", "-c", str(config), "-e", str(own / "error.log"), ready=answers(port)) as measured:
        yield measured, port, own / "www"


@contextmanager
def haproxy(folder: Path, node: int) -> Iterator[tuple[Measured, int]]:
    """HAProxy in front of a node: its port."""
    port = free_ports(1)
    config = folder / "haproxy.cfg"
    config.write_text(HAPROXY.format(port=port, node=node))
    with started("haproxy", "-f", str(config), "-db", "-q", ready=answers(port)) as measured:
        yield measured, port


@contextmanager
def plain(body: bytes, folder: Path, path: str) -> Iterator[tuple[Measured, int]]:
    """A handler of aiohttp that does nothing but return these bytes."""
    port = free_ports(1)
    file = folder / "body"
    file.write_bytes(body)
    with started(*python("-m", "bench.plain", port, file), ready=answers(port, path)) as measured:
        yield measured, port


def bare_ingest(folder: Path, files: list[Path]) -> float:
    """CPU seconds of the least that a program can do: read a socket into one buffer, write it to a file."""

    def send(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            for path in files:
                with path.open("rb") as file:
                    connection.sendfile(file)

    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as threads:
        sending = threads.submit(send, server.getsockname()[1])
        connection, _ = server.accept()
        buffer = bytearray(256 << 10)
        view = memoryview(buffer)
        before = time.thread_time()
        with connection, tempfile.TemporaryFile(dir=folder) as target:
            while count := connection.recv_into(buffer):
                target.write(view[:count])
        sending.result()
        return time.thread_time() - before


def bare_send(files: list[Path]) -> float:
    """CPU seconds of sendfile in a loop, to somebody who reads and forgets."""

    def take(server: socket.socket) -> None:
        connection, _ = server.accept()
        buffer = bytearray(1 << 20)
        with connection:
            while connection.recv_into(buffer):
                pass

    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as threads:
        taking = threads.submit(take, server)
        before = time.thread_time()
        with socket.create_connection(server.getsockname()) as connection:
            for path in files:
                with path.open("rb") as file:
                    connection.sendfile(file)
        spent = time.thread_time() - before
        taking.result()
        return spent
