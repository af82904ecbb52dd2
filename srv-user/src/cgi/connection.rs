//! A connection with a client: its requests one after another, each with a place among the scripts that
//! run, and what it is answered.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncWriteExt as _, WriteHalf};

use super::environment::{environment, param};
use super::execution::{Outcome, Why, execute};
use super::incoming::Incoming;
use super::listener::Stream;
use super::reaper::End;
use super::scripts::{Refusal, Script};
use super::shared::{Phase, Shared};
use super::supervisor::Plan;
use crate::fastcgi::ProtocolStatus;
use crate::fastcgi::server::{Event, put_end, put_end_of_stdout, put_stdout};

/// A client that has begun a request completes its parameters within this time.
const PARAMS_WITHIN: Duration = Duration::from_secs(10);

/// How long a client that still sends has to read its answer.
const LINGER: Duration = Duration::from_secs(1);

/// A request whose parameters are there.
struct Request {
    id: u16,
    keeps_connection: bool,
    params: Vec<(Bytes, Bytes)>,
}

/// Serves a connection until the client closes it, or this process stops.
pub(super) async fn serve(stream: Box<dyn Stream>, shared: &Shared) {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut incoming = Incoming::new(reader, shared.values);
    loop {
        let request = tokio::select! {
            // What has arrived is answered.
            biased;
            request = next_request(&mut incoming, &mut writer) => request,
            () = shared.reached(Phase::Stopping) => return,
        };
        let answered = match request {
            Ok(Some(request)) => answer(request, &mut incoming, &mut writer, shared).await,
            Ok(None) => return,
            Err(error) => Err(error),
        };
        incoming.end_request();
        match answered {
            Ok(true) if !shared.is_stopping() => {}
            Ok(_) => {
                // If bytes were left unread, a TCP client would see a reset before the answer.
                let _ = writer.shutdown().await;
                let _ = tokio::time::timeout(LINGER, incoming.discard()).await;
                return;
            }
            Err(error) => {
                tracing::debug!("serve a FastCGI connection: {error}");
                return;
            }
        }
    }
}

async fn next_request(
    incoming: &mut Incoming,
    writer: &mut WriteHalf<Box<dyn Stream>>,
) -> io::Result<Option<Request>> {
    loop {
        let owed = incoming.take_owed();
        if !owed.is_empty() {
            writer.write_all(&owed).await?;
        }
        let event = match incoming.is_active() {
            false => incoming.next().await?,
            true => tokio::time::timeout(PARAMS_WITHIN, incoming.next()).await??,
        };
        match event {
            None => return Ok(None),
            Some(Event::Request {
                request_id,
                keeps_connection,
                params,
            }) => {
                return Ok(Some(Request {
                    id: request_id,
                    keeps_connection,
                    params,
                }));
            }
            Some(Event::Reply(reply)) => incoming.owe(reply),
            // A request that was aborted before it was complete.
            Some(Event::Abort) => incoming.end_request(),
            Some(Event::Stdin(_) | Event::EndOfStdin) => {}
        }
    }
}

/// Answers a request. Returns whether the connection can be used again.
async fn answer(
    request: Request,
    incoming: &mut Incoming,
    writer: &mut WriteHalf<Box<dyn Stream>>,
    shared: &Shared,
) -> io::Result<bool> {
    let keeps = request.keeps_connection;
    let file_name = param(&request.params, "SCRIPT_FILENAME").unwrap_or_default();
    let script = match shared.scripts.find(file_name) {
        Ok(script) => script,
        Err(refusal) => {
            let name = String::from_utf8_lossy(file_name);
            tracing::warn!("refuse the script {}: {refusal}", name.escape_debug());
            writer.write_all(&refused(request.id, refusal)).await?;
            return Ok(keeps);
        }
    };
    let place = tokio::select! {
        place = shared.places.take() => place,
        gone = incoming.collect() => return gone.map(|()| false),
        () = tokio::time::sleep(shared.bounds.time) => None,
        () = shared.reached(Phase::Killing) => None,
    };
    let Some(_place) = place else {
        let mut out = Vec::new();
        put_end(&mut out, request.id, 0, ProtocolStatus::Overloaded);
        writer.write_all(&out).await?;
        return Ok(keeps);
    };
    let path = script.path.clone();
    let outcome = run(&request, script, incoming, writer, shared).await;
    let bytes = match outcome {
        Ok(outcome) => {
            tell(&path, &outcome, shared);
            closing(request.id, &outcome)
        }
        Err(error) => {
            tracing::warn!("execute {}: {error}", path.display());
            Some(message(
                request.id,
                "503 Service Unavailable",
                "the script cannot be started",
            ))
        }
    };
    let Some(bytes) = bytes else {
        return Ok(false);
    };
    writer.write_all(&bytes).await?;
    Ok(keeps)
}

async fn run(
    request: &Request,
    script: Script,
    incoming: &mut Incoming,
    writer: &mut WriteHalf<Box<dyn Stream>>,
    shared: &Shared,
) -> io::Result<Outcome> {
    let path = script.path.clone();
    let environment = environment(&request.params, &shared.variables);
    let plan =
        Plan::new(script, environment, shared.limits.clone()).ok_or(io::ErrorKind::InvalidInput)?;
    let stopped = shared.reached(Phase::Killing);
    execute(
        &plan,
        &path,
        (incoming, writer),
        request.id,
        (&shared.supervisors, &shared.notes),
        shared.bounds,
        stopped,
    )
    .await
}

/// Logs how an execution went, if it did not go well.
fn tell(path: &Path, outcome: &Outcome, shared: &Shared) {
    let path = path.display();
    match outcome.why {
        Why::Ended(End::Code(0)) | Why::Aborted | Why::ClientGone => {}
        Why::Ended(End::Code(code)) => tracing::info!("{path} ended with code {code}"),
        Why::Ended(End::Signal(signal)) => tracing::warn!("{path} was ended by signal {signal}"),
        Why::TimeLimit => {
            let limit = humantime::format_duration(shared.bounds.time);
            tracing::warn!("{path} was killed: it ran for {limit} (--time-limit)");
        }
        Why::OutputBound => {
            let bound = shared.bounds.output_bytes;
            tracing::warn!("{path} was killed: it wrote more than {bound} bytes (--output)");
        }
        Why::Stopped => tracing::warn!("{path} was killed: srv cgi stops (--grace)"),
    }
}

/// What ends an answer. `None`: the connection is closed without FastCGI's end of the request, so that
/// the client does not take a part for the whole.
fn closing(id: u16, outcome: &Outcome) -> Option<Vec<u8>> {
    let end = |app_status: u32| {
        let mut out = Vec::new();
        put_end_of_stdout(&mut out, id);
        put_end(&mut out, id, app_status, ProtocolStatus::Complete);
        Some(out)
    };
    match outcome.why {
        Why::Ended(End::Code(code)) => end(code.unsigned_abs()),
        Why::ClientGone => None,
        // The last record may be incomplete.
        _ if outcome.has_answered => None,
        Why::Aborted => end(0),
        Why::TimeLimit => Some(message(
            id,
            "504 Gateway Timeout",
            "the script was not in time",
        )),
        Why::Stopped => Some(message(id, "503 Service Unavailable", "the server stops")),
        Why::Ended(End::Signal(_)) | Why::OutputBound => {
            Some(message(id, "502 Bad Gateway", "the script has failed"))
        }
    }
}

fn refused(id: u16, refusal: Refusal) -> Vec<u8> {
    match refusal {
        Refusal::NotFound => message(id, "404 Not Found", "there is no such script"),
        Refusal::NotExecutable => message(id, "403 Forbidden", "the file cannot be executed"),
        Refusal::NonParsed => message(id, "403 Forbidden", "nph- scripts are not supported"),
    }
}

/// An answer of this process itself.
fn message(id: u16, status: &str, text: &str) -> Vec<u8> {
    let answer = format!("Status: {status}\r\nContent-Type: text/plain\r\n\r\n{text}\n");
    let mut out = Vec::new();
    put_stdout(&mut out, id, answer.as_bytes());
    put_end_of_stdout(&mut out, id);
    put_end(&mut out, id, 0, ProtocolStatus::Complete);
    out
}
