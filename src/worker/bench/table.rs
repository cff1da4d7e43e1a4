//! The result for people.

use super::{Report, measure::Rate};

const MIB: f64 = (1u64 << 20) as f64;

pub(super) fn of(report: &Report) -> String {
    let Report { shape, earnings, .. } = report;
    let millions = report.parameters as f64 / 1e6;
    let mut rows = vec![
        ("model".to_owned(), format!("{} ({}, {millions:.0} million parameters)", report.model, report.architecture)),
        ("processor".to_owned(), format!("{}, {} threads", report.processor, report.threads)),
        ("load".to_owned(), format!("{:.2} s", report.load_seconds)),
        ("model file".to_owned(), format!("{:.0} MiB", report.file_bytes as f64 / MIB)),
    ];
    if let Some(bytes) = report.peak_memory_bytes {
        rows.push(("memory, at most".to_owned(), format!("{:.0} MiB", bytes as f64 / MIB)));
    }
    let together = format!("write, {} at a time", shape.sequences);
    let rates = [
        ("read", Some(report.prefill)),
        ("write, one at a time", report.decode),
        (together.as_str(), report.decode_together),
        ("check an answer", report.replay),
    ];
    rows.extend(rates.into_iter().filter_map(|(name, rate)| Some((name.to_owned(), tokens(rate?)))));
    rows.push((
        "a day".to_owned(),
        format!(
            "{:.0} million units ({} a token, {} % busy)",
            earnings.units_per_day / 1e6,
            earnings.cost_per_token,
            earnings.busy_percent
        ),
    ));
    match earnings.xdc_per_day {
        Some(xdc) => rows.push(("earns a day".to_owned(), format!("{xdc:.4} XDC"))),
        None => {
            rows.push(("earns a day".to_owned(), "say what a unit is worth: --price-per-billion-units XDC".to_owned()))
        }
    }
    if let Some(money) = earnings.money_per_day {
        rows.push(("in your currency".to_owned(), format!("{money:.4}")));
    }
    if let Some(power) = earnings.power_per_day {
        rows.push(("power a day".to_owned(), format!("{power:.4}")));
    }
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    let lines = rows.iter().map(|(name, value)| format!("{name:width$}  {value}"));
    let shape = format!("Requests of {} prompt and {} answer tokens.", shape.prompt_tokens, shape.output_tokens);
    lines.chain([shape]).collect::<Vec<_>>().join("\n")
}

fn tokens(rate: Rate) -> String {
    format!("{:.1} tokens/s (median of {}, {:.1} to {:.1})", rate.median, rate.n, rate.least, rate.most)
}
