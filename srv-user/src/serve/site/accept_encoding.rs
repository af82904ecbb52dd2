//! Which codings a client takes (`Accept-Encoding`, RFC 9110, 12.5.3), in the order in which it is to
//! get them. These functions are pure.

use http::header::ACCEPT_ENCODING;
use http::{HeaderMap, HeaderValue};

use crate::serve::config::sites::Coding;

/// The codings that a client prefers to none, the best one first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted([Option<Coding>; 3]);

/// Weights of a header, in thousandths. `None`: the header does not say.
#[derive(Default)]
struct Weights {
    /// Brotli, Zstandard and gzip.
    codings: [Option<u16>; 3],
    identity: Option<u16>,
    any: Option<u16>,
}

impl Wanted {
    /// What the client prefers of `offered`, which is in the server's order: that decides between
    /// equal weights. A client that says nothing gets no coding. `lines` are the values of its
    /// `Accept-Encoding` headers.
    pub(super) fn of<'a>(lines: impl Iterator<Item = &'a [u8]>, offered: &[Coding]) -> Self {
        if offered.is_empty() {
            return Self::default();
        }
        let weights = Weights::read(lines);
        // Without a weight of its own, identity is taken, but after all that has one.
        let least = weights.identity.unwrap_or(1).max(1);
        let mut list = [None; 3];
        let weigh = |coding: &Coding| {
            let weight = weights.codings[nth(*coding)].or(weights.any)?;
            (weight >= least).then_some((*coding, weight))
        };
        for (place, wanted) in list.iter_mut().zip(offered.iter().filter_map(weigh)) {
            *place = Some(wanted);
        }
        // The sort is stable.
        list.sort_by_key(|wanted| std::cmp::Reverse(wanted.map_or(0, |(_, weight)| weight)));
        Self(list.map(|wanted| wanted.map(|(coding, _)| coding)))
    }

    /// As [`of`](Self::of), from the headers of a request.
    pub(super) fn of_headers(headers: &HeaderMap, offered: &[Coding]) -> Self {
        let lines = headers.get_all(ACCEPT_ENCODING).into_iter();
        Self::of(lines.map(HeaderValue::as_bytes), offered)
    }

    /// The codings.
    pub(super) fn codings(self) -> impl Iterator<Item = Coding> {
        self.0.into_iter().flatten()
    }
}

impl Weights {
    fn read<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut weights = Self::default();
        // What is no text has no coding's name beside it either.
        let lines = lines.filter(|line| line.is_ascii());
        let lines = lines.filter_map(|line| std::str::from_utf8(line).ok());
        for element in lines.flat_map(|line| line.split(',')) {
            let (token, parameters) = element.split_once(';').unwrap_or((element, ""));
            let Some(weight) = weight(parameters) else {
                continue;
            };
            let is = |name: &str| token.trim().eq_ignore_ascii_case(name);
            let place = match () {
                () if is("br") => &mut weights.codings[nth(Coding::Brotli)],
                () if is("zstd") => &mut weights.codings[nth(Coding::Zstd)],
                () if is("gzip") || is("x-gzip") => &mut weights.codings[nth(Coding::Gzip)],
                () if is("identity") => &mut weights.identity,
                () if is("*") => &mut weights.any,
                () => continue,
            };
            // The first one counts.
            *place = place.or(Some(weight));
        }
        weights
    }
}

/// The place of a coding among the weights.
fn nth(coding: Coding) -> usize {
    match coding {
        Coding::Brotli => 0,
        Coding::Zstd => 1,
        Coding::Gzip => 2,
    }
}

/// The weight that parameters say, thousandths. `None`: they are not well formed.
fn weight(parameters: &str) -> Option<u16> {
    let parameters = parameters.trim();
    if parameters.is_empty() {
        return Some(1000);
    }
    let (name, value) = parameters.split_once('=')?;
    let (whole, part) = value.split_once('.').unwrap_or((value, ""));
    let are_digits = part.bytes().all(|byte| byte.is_ascii_digit());
    if !name.trim_end().eq_ignore_ascii_case("q") || part.len() > 3 || !are_digits {
        return None;
    }
    let thousandths = format!("{part:0<3}").parse::<u16>().ok()?;
    match whole {
        "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Coding; 3] = [Coding::Brotli, Coding::Zstd, Coding::Gzip];

    #[track_caller]
    fn assert_wanted(header: &str, expected: &str) {
        let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, header.parse().unwrap())]);
        let wanted = Wanted::of_headers(&headers, &ALL).codings();
        let wanted: Vec<_> = wanted.map(Coding::token).collect();
        assert_eq!(wanted.join(" "), expected, "{header}");
    }

    #[test]
    fn weights_decide_and_then_the_order_of_the_server() {
        assert_wanted("gzip, deflate, br, zstd", "br zstd gzip");
        assert_wanted("gzip;q=1.0, br;q=0.5", "gzip br");
        assert_wanted("GZIP ; Q=0.8 , br;q=0", "gzip");
        assert_wanted("x-gzip", "gzip");
        assert_wanted("*", "br zstd gzip");
        assert_wanted("*;q=0.5, gzip", "gzip br zstd");
        assert_wanted("br;q=0, *;q=0.1", "zstd gzip");
    }

    #[test]
    fn identity_may_be_preferred() {
        assert_wanted("identity, gzip;q=0.5", "");
        assert_wanted("identity;q=0.5, gzip;q=0.5", "gzip");
        assert_wanted("identity;q=0, gzip;q=0.001", "gzip");
        assert_wanted("identity", "");
        assert_wanted("", "");
    }

    #[test]
    fn what_is_not_well_formed_is_not_wanted() {
        for header in [
            "br;q=2",
            "br;q=-1",
            "br;q=0.1234",
            "br;x=1",
            "br;q",
            "br;q=0.x",
            "brr",
        ] {
            assert_wanted(header, "");
        }
        assert_eq!(
            Wanted::of_headers(&HeaderMap::new(), &ALL),
            Wanted::default()
        );
    }
}
