//! The order of the page: first the conclusion, then the plots and figures that show it,
//! then the circumstances.

use anyhow::Result;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::canvas::{Drawing, NARROW, UNIT, WIDE, Width};
use super::figures::Figures;
use super::series::Series;
use super::{cdf, cpu, live, palette, shares, tables};
use crate::measure::result::{BOUND, Comparison};

const STYLE: &str = include_str!("page.css");

/// The page must never fetch anything: the browser enforces it.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";

/// The whole page.
pub(super) fn page(comparison: &Comparison) -> Result<Markup> {
    let figures = Figures::of(comparison)?;
    let series = Series::of(comparison);
    let name = &comparison.scenario.name;
    Ok(html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "srv ab: " (name) }
                // Else a browser asks the server for one.
                link rel="icon" href="data:,";
                style { (PreEscaped(palette::css(UNIT))) (PreEscaped(STYLE)) }
            }
            body {
                main {
                    (verdict(comparison))
                    (plots(comparison, &series)?)
                    (tables::figures(comparison, &figures, &series)?)
                    (tables::ratios(comparison, &figures)?)
                    (cost(&series)?)
                    (tables::rounds(&figures, &series)?)
                    (circumstances(comparison, &figures)?)
                }
            }
        }
    })
}

fn verdict(comparison: &Comparison) -> Markup {
    let (first, rest) = match &comparison.verdict[..] {
        [first, rest @ ..] => (first.as_str(), rest),
        [] => ("No verdict: nothing was compared.", &[][..]),
    };
    html! {
        header {
            p.eyebrow {
                "srv ab · " @if comparison.simulated { "simulated · " } (comparison.scenario.name) " · " (comparison.began)
            }
            @if let Some(why) = &comparison.incomplete {
                div.notice.incomplete role="alert" {
                    strong { "Incomplete" }
                    p { (why) }
                }
            }
            @if !comparison.doubts.is_empty() {
                div.notice.doubts role="alert" {
                    strong { "Reasons not to believe this" }
                    ul { @for doubt in &comparison.doubts { li { (doubt) } } }
                }
            }
            h1 { (first) }
            @if !rest.is_empty() {
                ul.verdict { @for sentence in rest { li { (sentence) } } }
            }
            p.about { (comparison.scenario.about) }
        }
    }
}

fn plots(comparison: &Comparison, series: &[Series]) -> Result<Markup> {
    Ok(html! {
        (figure(
            "Latency of short requests",
            "Horizontal: latency. Vertical: percentile. The further left a line stays, the better. \
             At each percentile a line shows the median of the rounds, as the tables do; behind \
             each name stands its p99, and marks stand at p50, p90, p99 and p99.9. \
             The dashed line without marks is the single-queue bound: one first-come-first-served queue \
             replaying the very same draws.",
            |width| cdf::draw(comparison, series, width),
        )?)
        (figure(
            "Connections per worker",
            "Accepted connections by worker, 1× being an even share (dashed). Bars: all rounds \
             together; thin lines: from the smallest to the largest round. CV and max/mean are \
             the medians of the rounds; an even split has 0 and 1.",
            |width| shares::draw(series, width),
        )?)
        (figure(
            "Live connections over time",
            "First round. A line per worker, the band from the least to the most loaded. \
             Narrow is even.",
            |width| live::draw(series, width),
        )?)
    })
}

fn cost(series: &[Series]) -> Result<Markup> {
    figure(
        "CPU per request",
        "User and system time of the server's processes per request. Bars: median of the \
         rounds; thin lines: their range.",
        |width| cpu::draw(series, width),
    )
}

/// A plot in two widths, of which the page shows the one that fits; nothing
/// if there is nothing to draw.
fn figure(
    title: &str,
    caption: &str,
    draw: impl Fn(Width) -> Result<Option<Drawing>>,
) -> Result<Markup> {
    let (Some(wide), Some(narrow)) = (draw(WIDE)?, draw(NARROW)?) else {
        return Ok(html! {});
    };
    Ok(html! {
        section {
            h2 { (title) }
            figure {
                (wide.inline(title))
                (narrow.inline(title))
                figcaption { (caption) }
            }
        }
    })
}

fn circumstances(comparison: &Comparison, figures: &Figures) -> Result<Markup> {
    let left_out = comparison
        .arms
        .iter()
        .filter_map(|arm| Some((arm, arm.left_out.as_ref()?)));
    let left_out: Vec<_> = left_out.collect();
    Ok(html! {
        section {
            h2 { "Arms" }
            dl {
                @for arm in comparison.arms.iter().filter(|arm| arm.left_out.is_none()) {
                    dt { (arm.label()) } dd { (arm.about) }
                }
                @if let Some(bound) = &comparison.bound { dt { (BOUND) } dd { (bound.about) } }
            }
            @if !left_out.is_empty() {
                h3 { "Left out" }
                dl {
                    @for (arm, why) in left_out { dt { (arm.label()) } dd { (why) } }
                }
            }
        }
        div.pair {
            section {
                h2 { "Scenario" }
                (tables::pairs(figures, "scenario.parameters", comparison.scenario.parameters.len())?)
            }
            section {
                h2 { "Environment" }
                (tables::pairs(figures, "environment", comparison.environment.len())?)
            }
        }
        section {
            h2 { "Run it again" }
            pre { code { (comparison.command) } }
            p.note {
                "Everything on this page is read from result.json beside it; each figure names \
                 its place there (attribute data-path)."
            }
        }
    })
}
