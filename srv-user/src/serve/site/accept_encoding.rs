//! Which codings a client takes (`Accept-Encoding`, RFC 9110, 12.5.3), in the order in which it is to
//! get them. These functions are pure.

use http::HeaderMap;
use http::header::ACCEPT_ENCODING;

use crate::serve::config::sites::Coding;

/// The codings that a client prefers to none, the best one first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted([Option<Coding>; 3]);

/// Weights of a header, in thousandths. `None`: the header does not say.
#[derive(Default)]
struct Weights {
    codings: Vec<(Coding, u16)>,
    identity: Option<u16>,
    any: Option<u16>,
}

impl Wanted {
    /// What the client prefers of `offered`, which is in the server's order: that decides between
    /// equal weights. A client that says nothing gets no coding.
    pub(super) fn of(headers: &HeaderMap, offered: &[Coding]) -> Self {
        if offered.is_empty() || !headers.contains_key(ACCEPT_ENCODING) {
            return Self::default();
        }
        let weights = Weights::read(headers);
        // Without a weight of its own, identity is taken, but after all that has one.
        let least = weights.identity.unwrap_or(1).max(1);
        let weigh = |coding: &Coding| {
            let own = weights.codings.iter().find(|(known, _)| known == coding);
            let weight = own.map(|(_, weight)| *weight).or(weights.any);
            weight.map(|weight| (*coding, weight))
        };
        let mut wanted: Vec<_> = offered.iter().filter_map(weigh).collect();
        wanted.retain(|(_, weight)| *weight >= least);
        // The sort is stable.
        wanted.sort_by_key(|(_, weight)| std::cmp::Reverse(*weight));
        let mut list = [None; 3];
        for (place, (coding, _)) in list.iter_mut().zip(wanted) {
            *place = Some(coding);
        }
        Self(list)
    }

    /// The codings.
    pub(super) fn codings(self) -> impl Iterator<Item = Coding> {
        self.0.into_iter().flatten()
    }
}

impl Weights {
    fn read(headers: &HeaderMap) -> Self {
        let mut weights = Self::default();
        let lines = headers.get_all(ACCEPT_ENCODING).into_iter();
        let lines = lines.filter_map(|line| line.to_str().ok());
        for element in lines.flat_map(|line| line.split(',')) {
            let (token, parameters) = element.split_once(';').unwrap_or((element, ""));
            let Some(weight) = weight(parameters) else {
                continue;
            };
            let is = |name: &str| token.trim().eq_ignore_ascii_case(name);
            match () {
                () if is("br") => weights.codings.push((Coding::Brotli, weight)),
                () if is("zstd") => weights.codings.push((Coding::Zstd, weight)),
                () if is("gzip") || is("x-gzip") => weights.codings.push((Coding::Gzip, weight)),
                () if is("identity") => weights.identity = Some(weight),
                () if is("*") => weights.any = Some(weight),
                () => {}
            }
        }
        weights
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
        let wanted = Wanted::of(&headers, &ALL).codings();
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
        assert_eq!(Wanted::of(&HeaderMap::new(), &ALL), Wanted::default());
    }
}
