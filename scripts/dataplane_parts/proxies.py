"""The proxies: how each is configured to do the same work with one thread.

All forward to the same backends in turn (or by the policy named), keep connections alive on both sides, write no
access log, and pass a stream on as it comes.
"""

import getpass
import shutil
import subprocess
from pathlib import Path

NGINX = """
daemon off;
user {user};
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr error;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 64m;
    client_body_buffer_size 1m;
    keepalive_requests 100000000;
    keepalive_timeout 75s;
    upstream backends {{
        {servers}
        keepalive 1024;
        keepalive_requests 100000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://backends;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 600s;
        }}
    }}
}}
"""

HAPROXY = """
global
    nbthread 1
    maxconn 8192
defaults
    mode http
    option http-no-delay
    http-reuse always
    timeout connect 2s
    timeout client 600s
    timeout server 600s
    timeout http-keep-alive 75s
frontend front
    bind 127.0.0.1:{port} backlog 4096
    default_backend backends
backend backends
    balance roundrobin
    {servers}
"""


class Direct:
    """No proxy: what everything else is compared with."""

    name = "direct"


class Nginx:
    name = "nginx"

    def version(self):
        return first_line(["nginx", "-v"])

    def command(self, port, backends, folder):
        servers = "\n        ".join(f"server 127.0.0.1:{backend};" for backend in backends)
        text = NGINX.format(user=getpass.getuser(), folder=folder, port=port, servers=servers)
        return ["nginx", "-p", folder, "-c", written(folder, "nginx.conf", text)]


class Haproxy:
    name = "haproxy"

    def version(self):
        return first_line(["haproxy", "-v"])

    def command(self, port, backends, folder):
        lines = [f"server backend{at} 127.0.0.1:{backend}" for at, backend in enumerate(backends)]
        text = HAPROXY.format(port=port, servers="\n    ".join(lines))
        return ["haproxy", "-db", "-f", written(folder, "haproxy.cfg", text)]


class Evenload:
    def __init__(self, label, binary, policy):
        self.name = f"{label} {policy}"
        self.binary = binary
        self.policy = policy

    def version(self):
        return first_line([self.binary, "--version"])

    def command(self, port, backends, folder):
        replicas = [part for backend in backends for part in ("--replica", f"http://127.0.0.1:{backend}")]
        listen = ["--listen", f"127.0.0.1:{port}", "--admin-listen", "127.0.0.1:0", "--threads", "1"]
        return [self.binary, "serve", *listen, "--policy", self.policy, *replicas]


def known(evenload):
    """All that can be measured here, by name; `evenload` is a list of `PATH` or `LABEL=PATH`."""
    targets = [Direct()]
    targets += [proxy() for proxy in (Nginx, Haproxy) if shutil.which(proxy.name)]
    for argument in evenload:
        label, _, path = argument.rpartition("=")
        for policy in ("round_robin", "prefix_hash", "prefix_aware"):
            if accepts(path, policy):
                targets.append(Evenload(label or "evenload", path, policy))
    return {target.name: target for target in targets}


def accepts(binary, policy):
    """Whether this build of evenload knows the policy; without replicas it ends at once."""
    if not Path(binary).exists():
        return False
    command = [binary, "serve", "--policy", policy]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    return "no replicas" in done.stderr


def first_line(command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    return (done.stdout + done.stderr).strip().splitlines()[0]


def written(folder, name, text):
    path = Path(folder) / name
    path.write_text(text)
    return path
