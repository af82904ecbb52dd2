//! The unmodified servers: the command and the configuration of each. Each answers
//! `/index.html`. What the servers have in common is in `super`.

use rustix::process::Signal;

use super::Unmodified;

const WORKERS: usize = 4;

/// A master with four workers that share a listening socket.
const BASE: Unmodified = Unmodified {
    program: "",
    arguments: "",
    ends_group: None,
    environment: &[],
    files: &[],
    listeners: 1,
    processes: 1 + WORKERS,
    acceptors: WORKERS,
    keeps: true,
    can_be_blocked: true,
    copies: false,
};

macro_rules! nginx {
    ($options:literal) => {
        &[(
            "nginx.conf",
            concat!(
                "load_module /usr/lib/nginx/modules/ndk_http_module.so;
load_module /usr/lib/nginx/modules/ngx_http_lua_module.so;
user root;
daemon off;
worker_processes 4;
pid {folder}/pid;
error_log stderr notice;
events { worker_connections 1000; }
http {
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {
    listen {address}",
                $options,
                ";
    location / { return 200 ok; }
    location /hold/ { content_by_lua_block {
      local pipe = io.open('{folder}/hold-' .. ngx.var.uri:match('%d+'))
      pipe:read('*a')
      pipe:close()
      ngx.header['Content-Length'] = 3
      ngx.print('ok\\n')
    } }
  }
}
"
            ),
        )]
    };
}

pub(crate) const NGINX: Unmodified = Unmodified {
    program: "nginx",
    arguments: "-p {folder} -c {folder}/nginx.conf -e stderr",
    files: nginx!(""),
    ..BASE
};

pub(crate) const NGINX_REUSEPORT: Unmodified = Unmodified {
    files: nginx!(" reuseport"),
    listeners: WORKERS,
    ..NGINX
};

/// It ends its workers by a signal to its process group.
pub(crate) const LIGHTTPD: Unmodified = Unmodified {
    program: "lighttpd",
    arguments: "-D -f {folder}/lighttpd.conf",
    ends_group: Some(Signal::TERM),
    files: &[
        (
            "lighttpd.conf",
            r#"server.document-root = "{folder}"
server.bind = "{host}"
server.port = {port}
server.max-worker = 4
server.max-keep-alive-idle = 60
server.max-keep-alive-requests = 1000
mimetype.assign = ( ".html" => "text/html" )
"#,
        ),
        ("index.html", "ok\n"),
    ],
    can_be_blocked: false,
    ..BASE
};

macro_rules! apache {
    ($module:literal, $settings:literal) => {
        &[
            (
                "apache.conf",
                concat!(
                    "LoadModule mpm_",
                    $module,
                    "_module /usr/lib/apache2/modules/mod_mpm_",
                    $module,
                    ".so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
ServerName localhost
ServerRoot {folder}
DefaultRuntimeDir {folder}
PidFile {folder}/pid
ErrorLog /dev/stderr
User www-data
Group www-data
Listen {address}
DocumentRoot {folder}
StartServers 4
ServerLimit 4
MaxKeepAliveRequests 0
KeepAliveTimeout 60
",
                    $settings
                ),
            ),
            ("index.html", "ok\n"),
        ]
    };
}

/// A kept connection would occupy one of its workers. It ends them by a signal to its process
/// group.
pub(crate) const APACHE_PREFORK: Unmodified = Unmodified {
    program: "apache2",
    ends_group: Some(Signal::TERM),
    arguments: "-DFOREGROUND -f {folder}/apache.conf",
    files: apache!(
        "prefork",
        "KeepAlive Off
MinSpareServers 4
MaxSpareServers 8
MaxRequestWorkers 4
"
    ),
    keeps: false,
    can_be_blocked: false,
    ..BASE
};

pub(crate) const APACHE_EVENT: Unmodified = Unmodified {
    files: apache!(
        "event",
        "ThreadsPerChild 8
MaxRequestWorkers 32
MinSpareThreads 32
MaxSpareThreads 64
AsyncRequestWorkerFactor 16
"
    ),
    keeps: true,
    ..APACHE_PREFORK
};

pub(crate) const HAPROXY: Unmodified = Unmodified {
    program: "haproxy",
    arguments: "-W -f {folder}/haproxy.cfg",
    files: &[(
        "haproxy.cfg",
        "global
  nbthread 4
  maxconn 2000
defaults
  mode http
  timeout client 60s
  timeout server 60s
  timeout connect 5s
frontend work
  bind {address} shards by-thread
  http-request return status 200 content-type text/plain string ok
",
    )],
    listeners: WORKERS,
    // A master and one worker, which has four threads.
    processes: 2,
    can_be_blocked: false,
    ..BASE
};

const PYTHON: Unmodified = Unmodified {
    files: &[(
        "application.py",
        "import re

def work(path):
    held = re.fullmatch('/hold/([0-9]+)', path)
    if held:
        open('hold-' + held[1]).read()

def application(environ, start_response):
    work(environ['PATH_INFO'])
    start_response('200 OK', [('Content-Length', '3')])
    return [b'ok\\n']

async def asgi(scope, receive, send):
    work(scope['path'])
    headers = [(b'content-length', b'3')]
    await send({'type': 'http.response.start', 'status': 200, 'headers': headers})
    await send({'type': 'http.response.body', 'body': b'ok\\n'})
",
    )],
    ..BASE
};

const GUNICORN: Unmodified = Unmodified {
    program: "gunicorn",
    ..PYTHON
};

pub(crate) const GUNICORN_SYNC: Unmodified = Unmodified {
    arguments: "--workers 4 --bind {address} application",
    keeps: false,
    ..GUNICORN
};

/// Its threads work while its main thread goes on accepting.
pub(crate) const GUNICORN_GTHREAD: Unmodified = Unmodified {
    arguments: "--workers 4 --threads 4 -k gthread --keep-alive 60 --bind {address} application",
    can_be_blocked: false,
    ..GUNICORN
};

pub(crate) const GUNICORN_GEVENT: Unmodified = Unmodified {
    arguments: "--workers 4 -k gevent --keep-alive 60 --bind {address} application",
    ..GUNICORN
};

pub(crate) const GUNICORN_UVICORN: Unmodified = Unmodified {
    arguments: "--workers 4 -k uvicorn.workers.UvicornWorker --keep-alive 60 --bind {address} \
                application:asgi",
    ..GUNICORN
};

pub(crate) const UVICORN: Unmodified = Unmodified {
    program: "uvicorn",
    arguments: "--workers 4 --lifespan off --no-access-log --timeout-keep-alive 60 --host {host} \
                --port {port} application:asgi",
    ..PYTHON
};

pub(crate) const HYPERCORN: Unmodified = Unmodified {
    program: "hypercorn",
    arguments: "--workers 4 --keep-alive 60 --bind {address} application:asgi",
    ..PYTHON
};

/// The application has a thread of its own, while another goes on accepting.
pub(crate) const GRANIAN: Unmodified = Unmodified {
    program: "granian",
    arguments: "--interface wsgi --workers 4 --blocking-threads 1 --no-access-log --host {host} \
                --port {port} application:application",
    listeners: WORKERS,
    can_be_blocked: false,
    ..PYTHON
};

/// With a capacity of 1, a process is blocked when its thread is.
pub(crate) const GRANIAN_OF_ONE_THREAD: Unmodified = Unmodified {
    can_be_blocked: true,
    ..GRANIAN
};

const RUBY: Unmodified = Unmodified {
    files: &[
        (
            "config.ru",
            "application = lambda do |environment|
  held = %r{\\A/hold/(\\d+)\\z}.match(environment['PATH_INFO'])
  File.read(\"hold-#{held[1]}\") if held
  [200, { 'Content-Length' => '3' }, [\"ok\\n\"]]
end
run application
",
        ),
        ("unicorn.rb", "worker_processes 4\n"),
    ],
    ..BASE
};

pub(crate) const PUMA: Unmodified = Unmodified {
    program: "puma",
    arguments: "--workers 4 --threads 1:1 --environment production --bind tcp://{address} config.ru",
    ..RUBY
};

pub(crate) const UNICORN: Unmodified = Unmodified {
    program: "unicorn",
    arguments: "--listen {address} --config-file unicorn.rb --env production config.ru",
    keeps: false,
    ..RUBY
};

/// The primary accepts for all.
pub(crate) const NODE_IN_TURN: Unmodified = Unmodified {
    program: "node",
    arguments: "application.js {host} {port}",
    files: &[(
        "application.js",
        "const cluster = require('node:cluster');
const fs = require('node:fs');
const http = require('node:http');

const [host, port] = process.argv.slice(2);
if (cluster.isPrimary) {
  for (let nth = 0; nth < 4; nth++) cluster.fork();
} else {
  const server = http.createServer((request, response) => {
    const held = /^\\/hold\\/(\\d+)$/.exec(request.url);
    if (held) fs.readFileSync(`hold-${held[1]}`);
    response.writeHead(200, { 'Content-Length': 3 });
    response.end('ok\\n');
  });
  server.keepAliveTimeout = 60000;
  server.listen(Number(port), host);
}
",
    )],
    acceptors: 1,
    can_be_blocked: false,
    ..BASE
};

pub(crate) const NODE_SHARED: Unmodified = Unmodified {
    environment: &[("NODE_CLUSTER_SCHED_POLICY", "none")],
    acceptors: WORKERS,
    can_be_blocked: true,
    ..NODE_IN_TURN
};

/// Its loop asks for io_uring, unlike that of version 20.
pub(crate) const NODE_24_IN_TURN: Unmodified = Unmodified {
    program: "node-24",
    ..NODE_IN_TURN
};

pub(crate) const NODE_24_SHARED: Unmodified = Unmodified {
    program: "node-24",
    ..NODE_SHARED
};

/// The master of its workers accepts, too. It leaves their end to a terminal.
pub(crate) const PHP: Unmodified = Unmodified {
    program: "php",
    arguments: "-S {address} router.php",
    environment: &[("PHP_CLI_SERVER_WORKERS", "4")],
    files: &[(
        "router.php",
        "<?php
if (preg_match('~^/hold/([0-9]+)$~', $_SERVER['REQUEST_URI'], $held))
    file_get_contents(__DIR__ . \"/hold-$held[1]\");
header('Content-Length: 3');
echo \"ok\\n\";
",
    )],
    acceptors: 1 + WORKERS,
    keeps: false,
    ends_group: Some(Signal::INT),
    ..BASE
};

pub(crate) const TOKIO: Unmodified = Unmodified {
    program: env!("CARGO_BIN_EXE_served-by-tokio"),
    arguments: "{address} 4",
    listeners: WORKERS,
    processes: 1,
    ..BASE
};

pub(crate) const AXUM: Unmodified = Unmodified {
    program: env!("CARGO_BIN_EXE_served-by-axum"),
    arguments: "{address}",
    copies: true,
    listeners: WORKERS,
    ..BASE
};
