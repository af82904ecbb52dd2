//! The environment of a script, from the parameters of a request. Only names that cannot change what a
//! program does by being there come from the client: with `LD_PRELOAD` or `BASH_ENV`, what can connect
//! could execute anything.

use std::collections::BTreeMap;
use std::ffi::CString;

use bytes::Bytes;

use super::args::Variable;

/// RFC 3875, 4.1, and what nginx, Apache and `srv serve` send beside it.
const META_VARIABLES: [&str; 30] = [
    "AUTH_TYPE",
    "CONTENT_LENGTH",
    "CONTENT_TYPE",
    "CONTEXT_DOCUMENT_ROOT",
    "CONTEXT_PREFIX",
    "DOCUMENT_ROOT",
    "DOCUMENT_URI",
    "GATEWAY_INTERFACE",
    "HTTPS",
    "PATH_INFO",
    "PATH_TRANSLATED",
    "QUERY_STRING",
    "REDIRECT_QUERY_STRING",
    "REDIRECT_STATUS",
    "REDIRECT_URL",
    "REMOTE_ADDR",
    "REMOTE_HOST",
    "REMOTE_IDENT",
    "REMOTE_PORT",
    "REMOTE_USER",
    "REQUEST_METHOD",
    "REQUEST_SCHEME",
    "REQUEST_URI",
    "SCRIPT_FILENAME",
    "SCRIPT_NAME",
    "SERVER_ADDR",
    "SERVER_NAME",
    "SERVER_PORT",
    "SERVER_PROTOCOL",
    "SERVER_SOFTWARE",
];

const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// `NAME=VALUE` for each variable. If the client sends a name twice, the last value counts, as in
/// php-fpm. Values of `ours` without a value are the client's.
pub(super) fn environment(params: &[(Bytes, Bytes)], ours: &[Variable]) -> Vec<CString> {
    let mut variables: BTreeMap<&[u8], &[u8]> = BTreeMap::new();
    variables.insert(b"PATH", PATH.as_bytes());
    for (name, value) in params {
        if is_passed(name, ours) {
            variables.insert(name, value);
        }
    }
    for variable in ours {
        if let Some(value) = &variable.value {
            variables.insert(variable.name.as_bytes(), value.as_bytes());
        }
    }
    let lines = variables.into_iter();
    let lines = lines.map(|(name, value)| CString::new([name, b"=", value].concat()));
    // What has a NUL can be no variable.
    lines.filter_map(Result::ok).collect()
}

/// The last value that the client sends for this name.
pub(super) fn param<'a>(params: &'a [(Bytes, Bytes)], name: &str) -> Option<&'a [u8]> {
    let mut params = params.iter().rev();
    params
        .find(|(known, _)| known == name)
        .map(|(_, value)| value.as_ref())
}

fn is_passed(name: &[u8], ours: &[Variable]) -> bool {
    let Ok(name) = std::str::from_utf8(name) else {
        return false;
    };
    let is_plain = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    let is_prefixed = ["HTTP_", "SSL_"].iter().any(|prefix| name.starts_with(prefix))
        && name.bytes().all(is_plain)
        // httpoxy (CVE-2016-5385), and what OpenSSL reads: the authorities that it trusts.
        && !["HTTP_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"].contains(&name);
    is_prefixed
        || META_VARIABLES.contains(&name)
        || ours
            .iter()
            .any(|variable| variable.name == name && variable.value.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(params: &[(&'static str, &'static str)]) -> Vec<(Bytes, Bytes)> {
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        params
            .iter()
            .map(|(name, value)| (bytes(name), bytes(value)))
            .collect()
    }

    fn lines(params: &[(&'static str, &'static str)], ours: &[&str]) -> Vec<String> {
        let ours: Vec<_> = ours.iter().map(|text| text.parse().unwrap()).collect();
        let lines = environment(&pairs(params), &ours);
        lines
            .into_iter()
            .map(|line| line.into_string().unwrap())
            .collect()
    }

    #[test]
    fn meta_variables_and_headers_come_from_the_client() {
        let params = [
            ("QUERY_STRING", "a=b"),
            ("HTTP_X_A", "first"),
            ("HTTP_X_A", "last"),
            ("HTTPS", "on"),
            ("SSL_PROTOCOL", "TLSv1.3"),
        ];
        let path = format!("PATH={PATH}");
        let expected = [
            "HTTPS=on",
            "HTTP_X_A=last",
            path.as_str(),
            "QUERY_STRING=a=b",
            "SSL_PROTOCOL=TLSv1.3",
        ];
        assert_eq!(lines(&params, &[]), expected);
    }

    #[test]
    fn what_changes_a_program_does_not() {
        for name in [
            "HTTP_PROXY",
            "LD_PRELOAD",
            "BASH_ENV",
            "PATH",
            "PERL5OPT",
            "PYTHONPATH",
            "IFS",
            "",
            "GIT_PROJECT_ROOT",
            "http_proxy",
            "HTTP_a",
            "HTTP_X=Y",
            "SSL_CERT_FILE",
            "QUERY_STRING\0",
        ] {
            assert_eq!(
                lines(&[(name, "x")], &[]),
                [format!("PATH={PATH}")],
                "{name:?}"
            );
        }
        assert_eq!(
            lines(&[("QUERY_STRING", "a\0b")], &[]).len(),
            1,
            "a NUL is in no variable"
        );
    }

    #[test]
    fn the_operator_sets_what_it_will() {
        let ours = [
            "GIT_PROJECT_ROOT=/srv/git",
            "GIT_X",
            "PATH=/bin",
            "REMOTE_USER=alice",
        ];
        let params = [
            ("GIT_PROJECT_ROOT", "/"),
            ("GIT_X", "x"),
            ("REMOTE_USER", "mallory"),
        ];
        let expected = [
            "GIT_PROJECT_ROOT=/srv/git",
            "GIT_X=x",
            "PATH=/bin",
            "REMOTE_USER=alice",
        ];
        assert_eq!(lines(&params, &ours), expected);
    }
}
