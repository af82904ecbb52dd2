//! Requests that a FastCGI application answers: what it is told of the request, and what the client
//! gets of its answer. [`conversation`] is the exchange of records with it, [`answer`] the response
//! that is made of them, `sending` the way of the request, `failure` why there is none, `report` what
//! goes to the log.

mod answer;
mod conversation;
mod failure;
mod report;
mod sending;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Method, Response, Uri};

use crate::fastcgi::client::Start;
use crate::fastcgi::response::{Document, Head};
use crate::fastcgi::script_path::ScriptPath;
use crate::fastcgi::variables::Variables;
use crate::serve::config::sites::FastCgi;
use crate::serve::router::{Client, Script, Target};
use crate::serve::site::Body;
use crate::serve::worker::http::{Application, Asked, Http, Peer, RequestBody};
use answer::AnswerBody;
use conversation::Conversation;
use failure::Failure;
use sending::{Source, collect};

const SOFTWARE: &str = concat!("srv/", env!("CARGO_PKG_VERSION"));

/// How often an application may have srv answer with another path instead (RFC 3875, 6.2.2).
const LOCAL_REDIRECTS_MAX: u32 = 10;

/// A request to an application, which is decided.
struct Request {
    http: Rc<Http>,
    target: Target,
    fastcgi: Rc<FastCgi>,
    script: Script,
    head: Parts,
    client: Client,
    peer: Peer,
    /// How many local redirects have led to it.
    redirects: u32,
}

/// The application that answers a request, if one does.
pub(super) fn application(http: &Rc<Http>, head: &Parts, client: Client) -> Option<Application> {
    let (target, fastcgi, script) = http.router.script(head, client)?;
    let http = http.clone();
    let ask = Box::new(move |asked: Asked| {
        let request = Request {
            http,
            target,
            fastcgi,
            script,
            head: asked.head,
            client: asked.client,
            peer: asked.peer,
            redirects: 0,
        };
        request.answer(Some(asked.body))
    });
    Some(Application {
        target: Some(target),
        ask,
    })
}

impl Request {
    /// Asks the application. In a box, since a local redirect makes one request of another.
    fn answer(self, body: Option<RequestBody>) -> Pin<Box<dyn Future<Output = Response<Body>>>> {
        Box::pin(async move {
            let body = match body.filter(|body| !body.is_complete()) {
                None => None,
                Some(body) if body.length().is_some() => Some(Source::Client(body)),
                // CONTENT_LENGTH says how much a script reads (RFC 3875, 4.2).
                Some(mut body) => match collect(&mut body, self.http.spool.as_ref()).await {
                    Ok(kept) => Some(Source::Kept(kept)),
                    Err(fault) => return body.refuse(fault),
                },
            };
            let start = self.start(body.as_ref().and_then(Source::length));
            let upstreams = &self.http.upstreams;
            let conversation = Conversation::new(upstreams, &self.fastcgi, start, body);
            let mut conversation = match conversation {
                Ok(conversation) => conversation,
                Err(error) => return self.fail(&Failure::NoSocket(error)),
            };
            match poll_fn(|cx| conversation.poll_head(cx)).await {
                Ok((Head::Document(document), rest)) => {
                    let is_head = self.head.method == Method::HEAD;
                    self.document(document, AnswerBody::new(conversation, rest, is_head))
                }
                Ok((Head::LocalRedirect(to), _)) => self.redirect(to).await,
                Err(Failure::Body(fault)) => conversation.refuse_body(fault),
                Err(failure) => self.fail(&failure),
            }
        })
    }

    /// The records that begin the request: all but its body.
    fn start(&self, content_length: Option<u64>) -> Vec<u8> {
        let ends = (*self.peer).as_ref().ends();
        let head = &self.head;
        let authority = head.uri.authority().map(http::uri::Authority::as_str);
        let host = head.headers.get(http::header::HOST);
        let host = authority.or_else(|| host.and_then(|host| host.to_str().ok()));
        let request_uri = head.uri.path_and_query();
        let user = self.http.router.user(self.target, &head.headers);
        let variables = Variables {
            method: &head.method,
            request_uri: request_uri.map_or("/", |uri| uri.as_str()),
            version: head.version,
            headers: &head.headers,
            authority,
            content_length,
            document_root: &self.script.root,
            path: ScriptPath {
                script: &self.script.name,
                info: &self.script.info,
            },
            script_file: &self.script.file,
            remote: ends.remote,
            local: ends.local,
            server_name: without_port(host.unwrap_or_default()),
            is_tls: self.client.is_tls,
            user: user.as_deref().map(|user| ("Basic", user)),
            software: SOFTWARE,
        };
        let mut start = Start::new(false);
        variables.put(start.pairs());
        for (name, value) in &self.fastcgi.params {
            crate::fastcgi::pairs::put(start.pairs(), name.as_bytes(), value.as_bytes());
        }
        start.into_records()
    }

    /// The response of an application. If it names a file instead, the client gets that.
    fn document(self, document: Document, body: AnswerBody) -> Response<Body> {
        let Document {
            status,
            mut headers,
            content_length,
        } = document;
        if let Some(path) = answer::file_to_send(&mut headers, &self.script.root) {
            drop(body);
            return self.send_file(&path, headers);
        }
        let mut response = Response::new(Body::stream(body.of_length(content_length)));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        self.http.router.answered(self.target, response)
    }

    /// Sends a file of the root, with what the application says of it.
    fn send_file(mut self, path: &str, headers: http::HeaderMap) -> Response<Body> {
        let Ok(uri) = path.parse::<Uri>() else {
            return self.fail(&Failure::Answer("names a file by what is no path".into()));
        };
        self.head.uri = uri;
        if self.head.method != Method::HEAD {
            self.head.method = Method::GET;
        }
        let mut response = self.http.router.file(self.target, &self.head);
        answer::keep_headers(&mut response, headers);
        response
    }

    /// Answers with another path of this site, as if the client had asked for that.
    async fn redirect(mut self, to: Uri) -> Response<Body> {
        if self.redirects >= LOCAL_REDIRECTS_MAX {
            return self.fail(&Failure::Answer(
                format!("redirects to {to} in a circle").into(),
            ));
        }
        self.head.uri = to;
        if self.head.method != Method::HEAD {
            self.head.method = Method::GET;
        }
        for name in [CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING] {
            self.head.headers.remove(name);
        }
        let http = self.http.clone();
        match http.router.script(&self.head, self.client) {
            None => http.router.respond(&self.head, self.client),
            Some((target, fastcgi, script)) => {
                if let Some(refusal) = http.router.refusal(target, &self.head, self.client) {
                    return refusal;
                }
                let next = Self {
                    target,
                    fastcgi,
                    script,
                    redirects: self.redirects + 1,
                    ..self
                };
                next.answer(None).await
            }
        }
    }

    /// Says why there is no answer, in the log, and that there is none, to the client.
    fn fail(&self, failure: &Failure) -> Response<Body> {
        let status = failure.status();
        report::failure(&self.fastcgi.to, &self.script, failure, status);
        self.http.router.unanswered(self.target, status)
    }
}

fn without_port(host: &str) -> &str {
    let end = match host.starts_with('[') {
        true => host.find(']').map(|at| at + 1),
        false => host.find(':'),
    };
    &host[..end.unwrap_or(host.len())]
}
