//! HTTP/2, frame by frame (RFC 9113, 4.1 and 6).

use super::*;
use crate::values::Http2;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const ENHANCE_YOUR_CALM: u32 = 11;

/// `:method: GET`, `:scheme: http` and `:authority: a` (RFC 7541, appendix A and 6.2.1).
const GET_FROM_A: &[u8] = b"\x82\x86\x41\x01a";
/// `:path: /`.
const ROOT: &[u8] = b"\x84";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

fn settings(setting: u16, value: u32) -> Vec<u8> {
    let payload = [&setting.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(SETTINGS, 0, 0, &payload)
}

/// A GET that ends its stream.
fn get(stream: u32, path: &str) -> Vec<u8> {
    let path = [&[4, path.len() as u8], path.as_bytes()].concat();
    let block = [GET_FROM_A, &path].concat();
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block)
}

/// A frame that the server sent.
#[derive(Debug, PartialEq, Eq)]
struct Sent {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Sent {
    /// The status in a block of headers: the first of them, by its number in the static table.
    fn status(&self) -> Option<u16> {
        const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
        let nth = self.payload.first()?.checked_sub(0x88)?;
        INDEXED.get(usize::from(nth)).copied()
    }

    /// The reason of a GOAWAY (RFC 9113, 6.8).
    fn reason(&self) -> u32 {
        u32::from_be_bytes(self.payload[4..8].try_into().unwrap())
    }
}

fn driver_with(change: impl FnOnce(&mut Limits)) -> Driver {
    let serving = Serving {
        synthetic: true,
        http2: Http2::Always,
        ..Serving::default()
    };
    let mut driver = driver_of(&serving, None);
    let http = Rc::get_mut(&mut driver.http).unwrap();
    change(&mut http.limits);
    driver
}

fn connect(driver: &Driver) -> Client<'_> {
    let mut client = Client::connect(driver);
    client.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat());
    client
}

impl Client<'_> {
    /// What has come since the last time.
    fn frames(&mut self) -> Vec<Sent> {
        let mut rest = &self.received[..];
        let mut frames = Vec::new();
        while let [a, b, c, kind, flags, tail @ ..] = rest {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            let (stream, tail) = tail.split_at(4);
            frames.push(Sent {
                kind: *kind,
                flags: *flags,
                stream: u32::from_be_bytes(stream.try_into().unwrap()),
                payload: tail[..length].to_vec(),
            });
            rest = &tail[length..];
        }
        assert!(rest.is_empty(), "half a frame");
        self.received.clear();
        frames
    }

    fn passes(&mut self, time: Duration) {
        self.now_ns += as_ns(time);
        self.let_it(Connection::expire);
    }
}

fn of_kind(frames: &[Sent], kind: u8) -> Vec<&Sent> {
    frames.iter().filter(|frame| frame.kind == kind).collect()
}

/// The streams of which the server has sent all.
fn ended(frames: &[Sent]) -> Vec<u32> {
    let mut ended: Vec<u32> = frames
        .iter()
        .filter(|frame| [DATA, HEADERS].contains(&frame.kind) && frame.flags & END_STREAM != 0)
        .map(|frame| frame.stream)
        .collect();
    ended.sort_unstable();
    ended
}

#[test]
fn streams_are_answered_side_by_side() {
    let driver = driver_with(|_| {});
    let mut client = connect(&driver);
    let requests = [get(1, "/"), get(3, "/nothing"), get(5, "/work?bytes=40000")];
    client.send(&requests.concat());
    let frames = client.frames();
    let mut answers = of_kind(&frames, HEADERS);
    answers.sort_by_key(|frame| frame.stream);
    let statuses: Vec<_> = answers.iter().map(|frame| frame.status()).collect();
    assert_eq!(statuses, [Some(200), Some(404), Some(200)]);
    assert_eq!(ended(&frames), [1, 3, 5]);
    assert_eq!(super::ended(&driver), [0, 0, 2, 0, 1, 0]);
    let large = frames
        .iter()
        .filter(|frame| frame.stream == 5 && frame.kind == DATA);
    let bytes: usize = large.map(|frame| frame.payload.len()).sum();
    assert_eq!(bytes, 40_000);
    assert_eq!(driver.published().running(), 0);
    assert!(client.connection.is_some());
}

#[test]
fn plain_connections_speak_http2_only_if_that_is_asked_for() {
    for http2 in [Http2::Tls, Http2::Never] {
        let serving = Serving {
            http2,
            ..Serving::default()
        };
        let driver = driver_of(&serving, None);
        let mut client = Client::connect(&driver);
        client.send(PREFACE);
        assert!(
            client.received.starts_with(b"HTTP/1.1 505 "),
            "{:?}",
            client.received
        );
    }
}

#[test]
fn a_request_names_one_host() {
    let driver = driver_with(|_| {});
    // `host: …` by the static table's number 38 (RFC 7541, 6.2.2: 15 in the first byte, then 23).
    let host = |name: &str| [&[0x0f, 23, name.len() as u8], name.as_bytes()].concat();
    let without = [b"\x82\x86".as_slice(), ROOT].concat();
    let with = [GET_FROM_A, ROOT].concat();
    for (block, status) in [
        ([with.clone(), host("a")].concat(), 200),
        ([without.clone(), host("a")].concat(), 200),
        ([with.clone(), host("b")].concat(), 400),
        ([with, host("a"), host("a")].concat(), 400),
        (without, 400),
    ] {
        let mut client = connect(&driver);
        client.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &block));
        let frames = client.frames();
        let answers = of_kind(&frames, HEADERS);
        assert_eq!(answers[0].status(), Some(status), "{block:?}");
    }
}

#[test]
fn a_body_that_is_too_large_ends_its_stream_and_no_other() {
    let driver = driver_with(|limits| limits.body_bytes = 10);
    let mut client = connect(&driver);
    let post = [b"\x83\x86\x41\x01a".as_slice(), ROOT].concat();
    client.send(&frame(HEADERS, END_HEADERS, 1, &post));
    client.send(&frame(DATA, 0, 1, &[b'x'; 11]));
    client.send(&get(3, "/"));
    let frames = client.frames();
    let answers = of_kind(&frames, HEADERS);
    assert_eq!(answers.len(), 2, "{frames:?}");
    assert_eq!(answers[1].status(), Some(200));
    assert_eq!(driver.published().running(), 0);
    assert!(client.connection.is_some());
}

#[test]
fn a_client_that_takes_nothing_is_given_up() {
    const INITIAL_WINDOW_SIZE: u16 = 4;
    let driver = driver_with(|_| {});
    let mut client = connect(&driver);
    client.send(&settings(INITIAL_WINDOW_SIZE, 0));
    client.send(&get(1, "/work?bytes=100000"));
    assert_eq!(driver.published().running(), 1);
    // That it is there does not count.
    client.passes(Duration::from_secs(29));
    client.send(&frame(PING, 0, 0, &[0; 8]));
    assert!(client.connection.is_some());
    client.passes(Duration::from_secs(2));
    client.leave(End::Closes);
    assert!(client.connection.is_none());
    assert_eq!(driver.published().running(), 0);
}

#[test]
fn a_drain_asks_for_the_end_and_answers_what_was_asked() {
    const INITIAL_WINDOW_SIZE: u16 = 4;
    let driver = driver_with(|_| {});
    let mut client = connect(&driver);
    client.send(&settings(INITIAL_WINDOW_SIZE, 10));
    client.send(&get(1, "/work?bytes=20"));
    client.frames();
    client.let_it(Connection::drain);
    let frames = client.frames();
    assert_eq!(of_kind(&frames, GOAWAY)[0].reason(), 0);
    // hyper waits for the client's answer to a PING before it counts streams as the last.
    for ping in of_kind(&frames, PING) {
        client.send(&frame(PING, ACK, 0, &ping.payload));
    }
    assert!(client.connection.is_some(), "the answer is not complete");
    client.send(&frame(WINDOW_UPDATE, 0, 1, &100u32.to_be_bytes()));
    let frames = client.frames();
    assert_eq!(ended(&frames), [1]);
    client.leave(End::Closes);
    assert!(client.connection.is_none());
}

#[test]
fn an_old_connection_is_asked_to_end() {
    let driver = driver_with(|limits| {
        limits.connection_age = Duration::from_secs(60);
        limits.idle_timeout = Duration::from_secs(1000);
    });
    let mut client = connect(&driver);
    client.send(&get(1, "/"));
    client.frames();
    client.passes(Duration::from_secs(50));
    assert_eq!(client.frames(), []);
    client.passes(Duration::from_secs(20));
    let frames = client.frames();
    assert_eq!(of_kind(&frames, GOAWAY)[0].reason(), 0);
    assert!(client.connection.is_some(), "the client ends it");
    client.passes(Duration::from_secs(6));
    client.leave(End::Closes);
    assert!(client.connection.is_none());
}

/// Ends with a GOAWAY that says so, after a bounded number of these.
#[track_caller]
fn assert_stopped(flood: impl Fn(u32) -> Vec<u8>) {
    let driver = driver_with(|_| {});
    let mut client = connect(&driver);
    let mut nth = 0;
    let mut frames = Vec::new();
    while of_kind(&frames, GOAWAY).is_empty() {
        nth += 1;
        assert!(nth < 20_000, "it goes on");
        client.send(&flood(nth));
        frames = client.frames();
    }
    assert_eq!(of_kind(&frames, GOAWAY)[0].reason(), ENHANCE_YOUR_CALM);
    client.leave(End::Closes);
    assert!(client.connection.is_none());
    assert_eq!(driver.published().running(), 0);
}

#[test]
fn floods_of_resets_are_stopped() {
    // Several at a time: streams that the server has answered are no flood.
    assert_stopped(|nth| {
        let pair = |stream| [get(stream, "/"), frame(RST_STREAM, 0, stream, &[0; 4])].concat();
        (0..50)
            .flat_map(|more| pair((nth * 50 + more) * 2 + 1))
            .collect()
    });
}

#[test]
fn floods_of_continuations_are_stopped() {
    let header = b"\x40\x01a\x01b".repeat(1000);
    assert_stopped(|nth| match nth {
        1 => frame(HEADERS, END_STREAM, 1, &[GET_FROM_A, ROOT].concat()),
        _ => frame(CONTINUATION, 0, 1, &header),
    });
}

#[test]
fn whatever_frames_come_the_connection_ends() {
    let driver = driver_with(|_| {});
    let seeds = [
        get(1, "/"),
        get(3, "/work?bytes=100000"),
        frame(
            HEADERS,
            END_HEADERS,
            5,
            &[b"\x83\x86\x41\x01a", ROOT].concat(),
        ),
        frame(DATA, END_STREAM, 5, b"hello"),
        frame(SETTINGS, 0, 0, &[]),
        settings(4, 0),
        frame(WINDOW_UPDATE, 0, 0, &100u32.to_be_bytes()),
        frame(RST_STREAM, 0, 3, &[0; 4]),
        frame(PING, 0, 0, &[7; 8]),
        frame(CONTINUATION, END_HEADERS, 1, ROOT),
        frame(GOAWAY, 0, 0, &[0; 8]),
    ];
    let input = (prop::collection::vec(mutated(seeds), 0..6), cuts(), ends());
    proptest!(config(), |((frames, cuts, end) in input)| {
        let bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frames.concat()].concat();
        let mut client = exchange(&driver, &bytes, &cuts, end);
        // A drain waits for the client; then for its end.
        client.leave(End::IsSilent);
        client.leave(End::Closes);
        prop_assert!(client.connection.is_none(), "it goes on");
        prop_assert_eq!(driver.published().running(), 0);
    });
}
