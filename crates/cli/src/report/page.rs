//! The page: one HTML file that needs nothing else.
//!
//! What comes from runs goes through the template's escaping, or, as data for the script, through [`data`].

use super::chart::{Chart, charts, names};
use super::colour::{Colour, properties};
use super::compare;
use super::figures::{self, Figure, Part};
use super::number::{Unit, duration, grouped};
use super::plot;
use super::timeline::Timeline;
use anemone::Run;
use anemone::run::State;
use maud::{DOCTYPE, Markup, PreEscaped, html};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The figures shown large, the first of them that a run has.
const FIRST: [&str; 7] = [
    "smoothed_loss",
    "validation_loss",
    "validation_accuracy",
    "wall_us",
    "step_us",
    "examples_per_second",
    "n_compiles",
];

/// How many stand in a row.
const N_TILES: usize = 6;

/// The page about some runs.
pub(crate) fn page(runs: &[Run]) -> String {
    let names = names(runs);
    let title = match &names[..] {
        [name] => name.clone(),
        _ => format!("{} runs compared", names.len()),
    };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="generator" content={ "anemone " (env!("CARGO_PKG_VERSION")) };
                title { (title) " · anemone" }
                // An icon that is none, so that nobody asks for one.
                link rel="icon" href="data:,";
                style { (PreEscaped(style())) }
            }
            body {
                main {
                    (header(runs, &title))
                    @if let [run] = runs {
                        (tiles(run))
                    } @else {
                        (compared(runs, &names))
                    }
                    (curves(runs, &names))
                    (time(runs, &names))
                    (compiles(runs, &names))
                    (setup(runs, &names))
                    (configuration(runs, &names))
                }
                footer { "Made by anemone " (env!("CARGO_PKG_VERSION")) " with " code { "anemone report" } "." }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    page.into_string()
}

fn style() -> String {
    format!(
        ":root{{{}}}@media (prefers-color-scheme:dark){{:root{{{}}}}}{STYLE}",
        properties(false),
        properties(true)
    )
}

/// Data for the script. JSON knows no `<` outside of strings, where it can be written otherwise.
pub(crate) fn data(value: &serde_json::Value) -> Markup {
    let text = value.to_string().replace('<', "\\u003c");
    html! { script type="application/json" { (PreEscaped(text)) } }
}

fn header(runs: &[Run], title: &str) -> Markup {
    html! {
        header {
            p.kind { "anemone · run report" }
            @if let [run] = runs {
                div.title { h1 { (title) } (badge(run.state())) }
                p.lead { (lead(run)) }
            } @else {
                div.title { h1 { (title) } }
            }
        }
    }
}

fn badge(state: &State) -> Markup {
    let kind = match state {
        State::Failed(_) | State::Killed => "bad",
        State::Finished => "good",
        _ => "neutral",
    };
    html! { span.badge.(kind) { (state.name()) } }
}

/// A sentence on what ran where.
fn lead(run: &Run) -> String {
    let setup = figures::setup(run);
    let of = |label: &str| setup.iter().find(|(l, _)| *l == label).map(|(_, value)| value.clone());
    let n = grouped(figures::n_steps(run) as f64);
    let mut text = match figures::n_steps_asked(run) {
        Some(asked) if asked > figures::n_steps(run) => format!("{n} of {} steps", grouped(asked as f64)),
        _ => format!("{n} steps"),
    };
    if let Some(device) = of("Device") {
        text += &format!(" on the {device}");
    }
    if let Some(machine) = of("Machine") {
        text += &format!(", {machine}");
    }
    text + "."
}

fn tiles(run: &Run) -> Markup {
    let figures = figures::figures(run);
    let shown: Vec<&Figure> =
        FIRST.iter().filter_map(|key| figures.iter().find(|f| f.key == *key)).take(N_TILES).collect();
    html! {
        section aria-label="Key figures" {
            dl.tiles {
                @for f in shown {
                    div { dt { (f.label.trim()) } dd { (f.show()) } }
                }
            }
        }
    }
}

fn compared(runs: &[Run], names: &[String]) -> Markup {
    let rows = compare::rows(runs);
    html! {
        section {
            h2 { "Side by side" }
            p.note { "Differences are to the first run; the better value of a row is bold." }
            div.scroll tabindex="0" role="region" aria-label="Runs side by side" {
                table.compare {
                    thead {
                        tr {
                            th scope="col" { "" }
                            @for (i, name) in names.iter().enumerate() {
                                th scope="col" { (key(Colour::Series(i))) (name) }
                            }
                        }
                    }
                    tbody {
                        tr {
                            th scope="row" { "State" }
                            @for run in runs { td { (badge(run.state())) } }
                        }
                        @for row in &rows {
                            tr {
                                th scope="row" class=[row.is_part.then_some("part")] { (row.label) }
                                @for cell in &row.cells {
                                    td class=[cell.is_best.then_some("best")] {
                                        (cell.text)
                                        @if let Some(difference) = &cell.difference { small { (difference) } }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A spot of a colour.
fn key(colour: Colour) -> Markup {
    html! { i.key style={ "background:" (colour.var()) } {} }
}

fn curves(runs: &[Run], names: &[String]) -> Markup {
    let charts = charts(runs);
    let (constant, drawn): (Vec<&Chart>, Vec<&Chart>) = charts.iter().partition(|c| c.constant().is_some());
    let (small, large): (Vec<&Chart>, Vec<&Chart>) = drawn.iter().partition(|c| c.small);
    html! {
        section {
            h2 { "Curves" }
            @if charts.is_empty() { p.note { "No step has been made yet." } }
            @if runs.len() > 1 && !charts.is_empty() {
                ul.legend.runs {
                    @for (i, name) in names.iter().enumerate() { li { (key(Colour::Series(i))) (name) } }
                }
            }
            @for chart in large { (plot::chart(chart, runs.len())) }
            div.grid { @for chart in small { (plot::chart(chart, runs.len())) } }
            @for chart in constant {
                p.note { (chart.title) ": " (chart.unit.show(chart.constant().unwrap_or(f64::NAN))) " throughout." }
            }
        }
    }
}

fn time(runs: &[Run], names: &[String]) -> Markup {
    let all: Vec<Vec<Part>> = runs.iter().map(figures::parts).collect();
    if all.iter().all(Vec::is_empty) {
        return html! {};
    }
    html! {
        section {
            h2 { "Where the time goes" }
            @for ((run, parts), name) in runs.iter().zip(&all).zip(names) {
                @let total: f64 = parts.iter().map(|p| p.us).sum();
                @let n = figures::n_steps(run).max(1) as f64;
                @if runs.len() > 1 { h3 { (name) " " small { (duration(total)) } } }
                @if !parts.is_empty() {
                    div.bar role="img" aria-label={ "Shares of the time of " (name) ", as in the table" } {
                        @for p in parts {
                            i style={ "flex-grow:" (format!("{:.5}", p.us / total)) ";background:" (p.colour.var()) }
                              title={ (p.label) ": " (Unit::Share.show(p.us / total)) } {}
                        }
                    }
                    div.scroll tabindex="0" role="region" aria-label={ "Time of " (name) } {
                        table.times {
                            thead { tr {
                                th scope="col" { "" }
                                th scope="col" { "Share" }
                                th scope="col" { "A step" }
                                th scope="col" { "In all" }
                            } }
                            tbody { @for p in parts { tr {
                                th scope="row" { (key(p.colour)) (p.label) }
                                td { (Unit::Share.show(p.us / total)) }
                                td { (duration(p.us / n)) }
                                td { (duration(p.us)) }
                            } } }
                        }
                    }
                }
            }
        }
    }
}

fn compiles(runs: &[Run], names: &[String]) -> Markup {
    html! {
        section {
            h2 { "Compiles beside training" }
            @for (run, name) in runs.iter().zip(names) {
                @if runs.len() > 1 { h3 { (name) } }
                p { (figures::compile_words(run)) }
                @match Timeline::new(run) {
                    Some(timeline) => (plot::timeline(&timeline, name)),
                    None => p.note { "The metrics of this run have no times of compiles." },
                }
            }
        }
    }
}

fn setup(runs: &[Run], names: &[String]) -> Markup {
    html! {
        section {
            h2 { "What ran, and what was checked" }
            @for (run, name) in runs.iter().zip(names) {
                @if runs.len() > 1 { h3 { (name) } }
                div.columns {
                    dl.facts {
                        @for (label, value) in figures::setup(run) { dt { (label) } dd { (value) } }
                        dt { "Folder" } dd { (run.path().display().to_string()) }
                    }
                    ul.checks {
                        @for (good, text) in figures::checks(run) {
                            li class=(if good { "good" } else { "bad" }) {
                                span aria-hidden="true" { (if good { "✓" } else { "!" }) }
                                @if !good { span.unseen { "Attention: " } }
                                (text)
                            }
                        }
                    }
                }
                @if runs.len() == 1 {
                    details {
                        summary { "All figures" }
                        div.scroll tabindex="0" role="region" aria-label="All figures" {
                            table.times { tbody { @for f in figures::figures(run) { tr {
                                th scope="row" class=[f.label.starts_with(' ').then_some("part")] { (f.label.trim()) }
                                td { (f.show()) @if !f.aside.is_empty() { " " (f.aside) } }
                            } } } }
                        }
                    }
                }
            }
        }
    }
}

fn configuration(runs: &[Run], names: &[String]) -> Markup {
    let rows = compare::configurations(runs);
    let n_differ = rows.iter().filter(|r| r.differs).count();
    let table = |differ: bool| {
        html! {
            div.scroll tabindex="0" role="region" aria-label="Configuration" {
                table.config {
                    @if runs.len() > 1 { thead { tr {
                        th scope="col" { "" }
                        @for (i, name) in names.iter().enumerate() { th scope="col" { (key(Colour::Series(i))) (name) } }
                    } } }
                    tbody { @for row in rows.iter().filter(|r| r.differs == differ) { tr {
                        th scope="row" { (row.key) }
                        @for value in &row.values { td { (value.as_deref().unwrap_or("–")) } }
                    } } }
                }
            }
        }
    };
    html! {
        section {
            h2 { "Configuration" }
            @if rows.is_empty() { p.note { "There is no configuration that can be read." } }
            @if runs.len() > 1 && !rows.is_empty() {
                @if n_differ == 0 { p.note { "The same in all runs." } } @else { (table(true)) }
                details { summary { "What all have in common" } (table(false)) }
            } @else if !rows.is_empty() {
                details { summary { (rows.len()) " keys of config.toml" } (table(false)) }
            }
        }
    }
}
