//! Bars and lines of figures as text, in block characters, or in ASCII where the locale has no
//! others. Pure; knows neither terminal nor figures.

/// Which characters bars are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Glyphs {
    /// Block characters, in eighths.
    Blocks,
    /// For a locale that is not UTF-8.
    Ascii,
}

const EIGHTHS: [char; 9] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];
const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const ASCII_LEVELS: [char; 8] = ['_', '.', ':', '-', '=', '+', '*', '#'];

impl Glyphs {
    /// What the locale can show, as the C library finds it: the first of these variables that is
    /// not empty names it.
    pub(super) fn of_locale(variable: impl Fn(&str) -> Option<String>) -> Self {
        let mut names = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter();
        let locale = names.find_map(|name| variable(name).filter(|value| !value.is_empty()));
        let locale = locale.unwrap_or_default().to_ascii_uppercase();
        match locale.contains("UTF-8") || locale.contains("UTF8") {
            true => Self::Blocks,
            false => Self::Ascii,
        }
    }

    /// A bar whose length is to `width` as `value` is to `largest`. A value above zero is visible.
    pub(super) fn bar(self, value: Option<f64>, largest: f64, width: usize) -> String {
        let part = part(value.unwrap_or(0.0), largest);
        let eighths = (part * 8.0 * width as f64).round() as usize;
        let eighths = eighths.max(usize::from(part > 0.0));
        let (whole, rest) = (eighths / 8, eighths % 8);
        match self {
            Self::Ascii => "#".repeat(whole + usize::from(rest >= 4 || whole == 0 && rest > 0)),
            Self::Blocks if rest > 0 => "█".repeat(whole) + &EIGHTHS[rest].to_string(),
            Self::Blocks => "█".repeat(whole),
        }
    }

    /// The last `width` values, the newest at the right end. An unknown value is a gap.
    pub(super) fn line(self, values: &[Option<f64>], largest: f64, width: usize) -> String {
        let levels = match self {
            Self::Blocks => LEVELS,
            Self::Ascii => ASCII_LEVELS,
        };
        let shown = &values[values.len().saturating_sub(width)..];
        let gap = std::iter::repeat_n(' ', width - shown.len());
        let levels = shown.iter().map(|value| match value {
            None => ' ',
            Some(value) => {
                let level = (part(*value, largest) * 7.0).ceil() as usize;
                levels[level.min(7)]
            }
        });
        gap.chain(levels).collect()
    }

    /// The character of a horizontal rule.
    pub(super) fn rule(self) -> &'static str {
        match self {
            Self::Blocks => "─",
            Self::Ascii => "-",
        }
    }
}

/// `value` over `largest`, from 0 to 1.
fn part(value: f64, largest: f64) -> f64 {
    if largest <= 0.0 || !value.is_finite() {
        return 0.0;
    }
    (value / largest).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_variable_that_is_not_empty_names_the_locale() {
        let of = |all: &'static str, ctype: &'static str, lang: &'static str| {
            Glyphs::of_locale(|name| {
                let value = match name {
                    "LC_ALL" => all,
                    "LC_CTYPE" => ctype,
                    _ => lang,
                };
                Some(value.to_owned())
            })
        };
        assert_eq!(of("", "", "de_DE.UTF-8"), Glyphs::Blocks);
        assert_eq!(of("", "C.utf8", "C"), Glyphs::Blocks);
        assert_eq!(of("C", "", "de_DE.UTF-8"), Glyphs::Ascii);
        assert_eq!(Glyphs::of_locale(|_| None), Glyphs::Ascii);
    }

    #[test]
    fn bars_are_as_long_as_their_value() {
        let bar = |value| Glyphs::Blocks.bar(Some(value), 100.0, 4);
        assert_eq!(bar(0.0), "");
        assert_eq!(bar(0.01), "▏");
        assert_eq!(bar(50.0), "██");
        assert_eq!(bar(60.0), "██▍");
        assert_eq!(bar(100.0), "████");
        assert_eq!(bar(1e300), "████");
        assert_eq!(bar(f64::NAN), "");
        assert_eq!(Glyphs::Blocks.bar(None, 100.0, 4), "");
        assert_eq!(Glyphs::Blocks.bar(Some(5.0), 0.0, 4), "");
        let ascii = |value| Glyphs::Ascii.bar(Some(value), 100.0, 4);
        assert_eq!([ascii(0.0), ascii(1.0), ascii(60.0)], ["", "#", "##"]);
        assert_eq!(ascii(100.0), "####");
    }

    #[test]
    fn a_line_has_the_newest_value_at_its_right_end() {
        let values = [Some(1.0), None, Some(0.0), Some(50.0), Some(100.0)];
        assert_eq!(Glyphs::Blocks.line(&values, 100.0, 7), "  ▂ ▁▅█");
        assert_eq!(Glyphs::Blocks.line(&values, 100.0, 2), "▅█");
        assert_eq!(Glyphs::Ascii.line(&values, 100.0, 5), ". _=#");
        assert_eq!(Glyphs::Ascii.line(&[], 100.0, 2), "  ");
        assert_eq!(Glyphs::Ascii.line(&values, 100.0, 0), "");
    }
}
