//! Which format a client wants, by its `Accept`.

/// A format of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::admin) enum Format {
    /// The text format of Prometheus.
    Prometheus,
    /// OpenMetrics.
    OpenMetrics,
    /// Prometheus' protocol buffers, which alone have native histograms.
    Protobuf,
}

impl Format {
    /// The format that an `Accept` prefers. If it names none of them, text, which all read.
    pub(in crate::admin) fn accepted(accept: &str) -> Self {
        let mut best = (0.0, Self::Prometheus);
        for offer in accept.split(',') {
            let mut parts = offer.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let parameters: Vec<_> = parts.filter_map(|part| part.split_once('=')).collect();
            let has = |key, value| parameters.contains(&(key, value));
            let format = match name {
                "application/openmetrics-text" => Self::OpenMetrics,
                "text/plain" | "text/*" | "*/*" => Self::Prometheus,
                "application/vnd.google.protobuf"
                    if has("proto", "io.prometheus.client.MetricFamily")
                        && has("encoding", "delimited") =>
                {
                    Self::Protobuf
                }
                _ => continue,
            };
            let quality = parameters.iter().find(|(key, _)| *key == "q");
            let quality = quality.map_or(Some(1.0), |(_, q)| q.parse().ok());
            // Of equal ones, the first.
            if let Some(quality) = quality.filter(|quality| *quality > best.0) {
                best = (quality, format);
            }
        }
        best.1
    }

    /// Its media type.
    pub(in crate::admin) fn media_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; \
                 encoding=delimited"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_what_they_prefer() {
        for (accept, format) in [
            ("", Format::Prometheus),
            ("*/*", Format::Prometheus),
            ("text/html,application/xml;q=0.9", Format::Prometheus),
            // Prometheus 2.42, without and with native histograms.
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
                 version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Format::OpenMetrics,
            ),
            (
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
                 encoding=delimited,application/openmetrics-text;version=1.0.0;q=0.8,\
                 text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Format::Protobuf,
            ),
            ("application/vnd.google.protobuf", Format::Prometheus),
            (
                "text/plain;q=0.9, application/openmetrics-text;q=0.8",
                Format::Prometheus,
            ),
            (
                "application/openmetrics-text;q=nonsense",
                Format::Prometheus,
            ),
        ] {
            assert_eq!(Format::accepted(accept), format, "{accept}");
        }
    }
}
