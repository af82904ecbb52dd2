//! How quantities are written for people: three significant digits, units attached.

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quantity {
    /// Nanoseconds, written in the unit that suits.
    Ns,
    /// Whole things.
    Count,
    /// Without a dimension, to three decimals.
    Part,
}

impl Quantity {
    /// `value`, with its unit.
    pub(crate) fn write(self, value: f64) -> String {
        match self {
            Self::Ns => ns(value),
            Self::Count => count(value),
            Self::Part => format!("{value:.3}"),
        }
    }
}

/// A time, to three digits.
pub(crate) fn ns(value: f64) -> String {
    let (scale, unit) = unit(value);
    format!("{}\u{a0}{unit}", three_digits(value / scale))
}

/// The unit that suits a time, and how many ns it has.
pub(crate) fn unit(value_ns: f64) -> (f64, &'static str) {
    // Where rounding to three digits would read 1000, the next unit begins.
    match value_ns.abs() {
        size if size >= 999.5e6 => (1e9, "s"),
        size if size >= 999.5e3 => (1e6, "ms"),
        size if size >= 999.5 => (1e3, "µs"),
        _ => (1.0, "ns"),
    }
}

fn three_digits(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 99.95 || size == 0.0 => 0,
        size if size >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

/// With thin spaces between thousands.
fn count(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::from(if value < 0.0 { "−" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits_and_the_unit_that_suits() {
        let written = [0.0, 7.0, 999.6, 12_345.0, 999_600.0, 40_100_000.0, 1.25e9].map(ns);
        let expected = "0 ns|7.00 ns|1.00 µs|12.3 µs|1.00 ms|40.1 ms|1.25 s";
        assert_eq!(written.join("|").replace('\u{a0}', " "), expected);
    }

    #[test]
    fn thousands_stand_apart() {
        let written = [0.0, 999.0, 1000.0, 1_234_567.0].map(count);
        assert_eq!(
            written.join("|").replace('\u{202f}', " "),
            "0|999|1 000|1 234 567"
        );
    }
}
