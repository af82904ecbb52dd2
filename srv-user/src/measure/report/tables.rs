//! The figures, in tables that scroll within their box where the screen is
//! narrow. Every number comes by [`Figures`].

use anyhow::Result;
use maud::{Markup, html};

use super::canvas::swatch;
use super::figures::{Figures, Over};
use super::palette::Role;
use super::quantity::Quantity::{self, Count, Ns, Part};
use super::series::Series;
use crate::measure::result::{BOUND, Compared, Comparison};

/// One column: its head, the path within a round, what it counts, and what is
/// shown of the rounds.
struct Column(&'static str, &'static str, Quantity, Over);

const fn median(head: &'static str, path: &'static str, quantity: Quantity) -> Column {
    Column(head, path, quantity, Over::Median)
}

const fn sum(head: &'static str, path: &'static str) -> Column {
    Column(head, path, Count, Over::Sum)
}

const SHORT: [Column; 5] = [
    median("p50", "short.p50_ns", Ns),
    median("p90", "short.p90_ns", Ns),
    median("p99", "short.p99_ns", Ns),
    median("p99.9", "short.p99_9_ns", Ns),
    median("max", "short.max_ns", Ns),
];

const ALL: [Column; 4] = [
    median("p50", "all.p50_ns", Ns),
    median("p99", "all.p99_ns", Ns),
    median("mean", "all.mean_ns", Ns),
    median("deviation", "deviation_ns", Ns),
];

const WAITED: [Column; 2] = [
    median("p50", "accept_delay_p50_ns", Ns),
    median("p99", "accept_delay_p99_ns", Ns),
];

const BALANCE: [Column; 4] = [
    median("CV", "accepts_cv", Part),
    median("max/mean", "accepts_max_over_mean", Part),
    median("Jain", "accepts_jain", Part),
    median("live gap", "live_gap", Count),
];

const SERVED: [Column; 2] = [
    median("CV", "served.cv", Part),
    median("max/mean", "served.max_over_mean", Part),
];

const HEALTH: [Column; 5] = [
    median("CPU per request", "cpu_ns_per_request", Ns),
    sum("requests", "requests"),
    sum("lost", "lost"),
    median("generator late, p99", "lateness.p99_ns", Ns),
    median("max", "lateness.max_ns", Ns),
];

/// The figures per arm.
pub(super) fn figures(
    comparison: &Comparison,
    figures: &Figures,
    series: &[Series],
) -> Result<Markup> {
    if series.is_empty() {
        return Ok(html! {});
    }
    let has_bound = comparison.bound.is_some();
    let mut rounds = series.iter().flat_map(|row| &row.arm.rounds);
    let are_kept = rounds.all(|round| round.served.is_some());
    let mut rounds = series.iter().flat_map(|row| &row.arm.rounds);
    let are_known = rounds.any(|round| round.accept_delay_p99_ns.is_some());
    Ok(html! {
        section {
            h2 { "Figures" }
            p.note { "Large: the median of the rounds, without those that the hypervisor disturbed; small: from the smallest to the largest. Requests and lost are sums over all rounds." }
            h3 { "Latency of short requests" }
            (table(&SHORT, series, figures, has_bound)?)
            h3 { "Latency of all requests" }
            (table(&ALL, series, figures, has_bound)?)
            @if are_known {
                h3 { "Of that, the time until a worker accepted the connection" }
                (table(&WAITED, series, figures, false)?)
            }
            h3 { "Balance: connections accepted per worker" }
            (table(&BALANCE, series, figures, false)?)
            @if are_kept {
                h3 { "Later load: requests per worker over the keep-alive connections" }
                (table(&SERVED, series, figures, false)?)
            }
            @if !comparison.simulated {
                h3 { "Cost and health" }
                (table(&HEALTH, series, figures, false)?)
            }
        }
    })
}

fn table(
    columns: &[Column],
    series: &[Series],
    figures: &Figures,
    with_bound: bool,
) -> Result<Markup> {
    Ok(html! {
        div.scroll tabindex="0" {
            table {
                thead {
                    tr { th scope="col" { "arm" } @for column in columns { th scope="col" { (column.0) } } }
                }
                tbody {
                    @for row in series {
                        tr {
                            (name(&row.name, row.role))
                            @for column in columns {
                                (cell(figures, &format!("arms.{}.rounds.*.{}", row.index, column.1), column)?)
                            }
                        }
                    }
                    @if with_bound {
                        tr.bound {
                            (name(BOUND, Role::Bound))
                            @for column in columns {
                                // Of the bound there are summaries only.
                                @match column.1.split_once('.') {
                                    Some((group, figure)) => {
                                        (cell(figures, &format!("limit.{group}.*.{figure}"), column)?)
                                    }
                                    None => { td { span.absent { "–" } } }
                                }
                            }
                        }
                    }
                }
            }
        }
    })
}

fn cell(figures: &Figures, path: &str, &Column(_, _, quantity, over): &Column) -> Result<Markup> {
    let is_one_value = over == Over::Sum || figures.all(path, over)?.len() < 2;
    Ok(html! {
        td {
            (figures.over(path, over, quantity)?)
            @if !is_one_value {
                small {
                    (figures.over(path, Over::Min, quantity)?) " – " (figures.over(path, Over::Max, quantity)?)
                }
            }
        }
    })
}

fn name(name: &str, role: Role) -> Markup {
    html! { th scope="row" { (swatch(role)) (name) } }
}

/// Arms against each other.
pub(super) fn ratios(comparison: &Comparison, figures: &Figures) -> Result<Markup> {
    if comparison.ratios.is_empty() {
        return Ok(html! {});
    }
    let scale = Scale::of(&comparison.ratios);
    Ok(html! {
        section {
            h2 { "Ratios" }
            p.note {
                "Paired by round: median, 95 % bootstrap confidence interval (of three rounds or more), range of the rounds. \
                 Below 1 the first arm has less. The control compares an arm with itself: \
                 what it shows is chance."
            }
            div.scroll tabindex="0" {
                table {
                    thead {
                        tr {
                            th scope="col" { "arm : base" } th.left scope="col" { "figure" }
                            th scope="col" { "ratio" } th scope="col" { "95 % interval" }
                            th.left scope="col" { (scale.head()) }
                            th.left scope="col" { "judgement" }
                        }
                    }
                    tbody {
                        @for (index, compared) in comparison.ratios.iter().enumerate() {
                            (ratio(figures, &scale, index, compared)?)
                        }
                    }
                }
            }
        }
    })
}

fn ratio(figures: &Figures, scale: &Scale, index: usize, compared: &Compared) -> Result<Markup> {
    let [arm, base] = compared.pair.labels();
    let show = |field: &str| figures.one(&format!("ratios.{index}.ratio.{field}"), Part);
    Ok(html! {
        tr.control[compared.pair.is_control()] {
            th scope="row" {
                (arm) " : " (base)
                @if compared.pair.is_control() { " " span.badge { "A/A control" } }
            }
            td.left { (compared.figure) }
            td { strong { (show("rounds.median")?) } }
            td {
                @if compared.ratio.interval().is_some() {
                    (show("low")?) " – " (show("high")?)
                } @else {
                    span.absent title="fewer than three rounds" { "–" }
                }
                small { "rounds " (show("rounds.min")?) " – " (show("rounds.max")?) }
            }
            td.left { (scale.interval(compared)) }
            td.left.judgement { (compared.judgement) }
        }
    })
}

/// The logarithmic scale that all intervals are drawn on.
struct Scale {
    low: f64,
    high: f64,
}

/// In units of the drawing.
const SCALE_WIDTH: f64 = 1800.0;

impl Scale {
    fn of(ratios: &[Compared]) -> Self {
        let ends = ratios
            .iter()
            .filter_map(|compared| compared.ratio.interval())
            .flat_map(|(low, high)| [low, high]);
        let ends = ends.filter(|end| end.is_finite() && *end > 0.0);
        let (low, high) = ends.fold((0.9_f64, 1.1_f64), |(low, high), end| {
            (low.min(end), high.max(end))
        });
        Self {
            low: low.ln() - 0.05,
            high: high.ln() + 0.05,
        }
    }

    fn at(&self, ratio: f64) -> f64 {
        let ratio = if ratio.is_finite() && ratio > 0.0 {
            ratio.ln()
        } else {
            self.low
        };
        ((ratio - self.low) / (self.high - self.low)).clamp(0.0, 1.0) * (SCALE_WIDTH - 100.0) + 50.0
    }

    fn head(&self) -> Markup {
        html! {
            svg.interval viewBox={ "0 0 " (SCALE_WIDTH) " 200" } role="img" aria-label="where 1 is" {
                text.f-muted x=(whole(self.at(1.0))) y="150" text-anchor="middle" font-size="120" { "1" }
            }
        }
    }

    fn interval(&self, compared: &Compared) -> Markup {
        let ratio = &compared.ratio;
        let class = if ratio.differs() { "ink" } else { "muted" };
        let interval = ratio
            .interval()
            .map(|(low, high)| (self.at(low), self.at(high)));
        html! {
            svg.interval viewBox={ "0 0 " (SCALE_WIDTH) " 200" } aria-hidden="true" {
                line.s-muted x1=(whole(self.at(1.0))) x2=(whole(self.at(1.0))) y1="0" y2="200" stroke-width="10" {}
                @if let Some((low, high)) = interval {
                    line class={ "s-" (class) } x1=(whole(low)) x2=(whole(high)) y1="100" y2="100" stroke-width="28" {}
                }
                circle class={ "f-" (class) } cx=(whole(self.at(ratio.rounds.median))) cy="100" r="46" {}
            }
        }
    }
}

fn whole(units: f64) -> i64 {
    units.round() as i64
}

/// Every round as it stands in the file.
pub(super) fn rounds(figures: &Figures, series: &[Series]) -> Result<Markup> {
    const COLUMNS: [(&str, &str, Quantity); 12] = [
        ("requests", "requests", Count),
        ("lost", "lost", Count),
        ("short p50", "short.p50_ns", Ns),
        ("p90", "short.p90_ns", Ns),
        ("p99", "short.p99_ns", Ns),
        ("p99.9", "short.p99_9_ns", Ns),
        ("max", "short.max_ns", Ns),
        ("all p99", "all.p99_ns", Ns),
        ("CV", "accepts_cv", Part),
        ("CPU/request", "cpu_ns_per_request", Ns),
        ("late, p99", "lateness.p99_ns", Ns),
        ("max", "lateness.max_ns", Ns),
    ];
    if series.is_empty() {
        return Ok(html! {});
    }
    Ok(html! {
        section {
            details {
                summary { "Round by round" }
                div.scroll tabindex="0" {
                    table {
                        thead { tr {
                            th scope="col" { "arm" } th scope="col" { "round" } th scope="col" { "seed" }
                            @for (head, _, _) in COLUMNS { th scope="col" { (head) } }
                        } }
                        tbody {
                            @for row in series {
                                @for round in 0..row.arm.rounds.len() {
                                    tr {
                                        (name(&row.name, row.role))
                                        td { (round + 1) }
                                        td { (figures.text(&format!("arms.{}.rounds.{round}.seed", row.index))?) }
                                        @for (_, field, quantity) in COLUMNS {
                                            td { (figures.one(&format!("arms.{}.rounds.{round}.{field}", row.index), quantity)?) }
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    })
}

/// A list of labels and values.
pub(super) fn pairs(figures: &Figures, list: &str, count: usize) -> Result<Markup> {
    Ok(html! {
        dl {
            @for index in 0..count {
                dt { (figures.text(&format!("{list}.{index}.0"))?) }
                dd { (figures.text(&format!("{list}.{index}.1"))?) }
            }
        }
    })
}
