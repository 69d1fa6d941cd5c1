//! What a soak saw, as markdown.

use std::time::Duration;

use super::check::SAMPLES_MIN;
use super::kinds::KINDS;
use super::ledger::Books;

/// Latencies in steps of an eighth of a power of two.
pub struct Latencies([u32; 256]);

/// The process at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    pub at: Duration,
    pub resident_kib: u64,
    pub descriptors: u64,
    pub threads: u64,
    /// Gauges of the proxy's own metrics, by name.
    pub gauges: Vec<(String, f64)>,
}

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies([0; 256])
    }
}

impl Latencies {
    pub fn observe(&mut self, took: Duration) {
        let us = u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1);
        self.0[(f64::from(us).log2() * 8.0) as usize] += 1;
    }

    /// The upper end of the step that so much of all lies in or below; in milliseconds.
    pub fn quantile_ms(&self, share: f64) -> Option<f64> {
        let all: u32 = self.0.iter().sum();
        let wanted = (f64::from(all) * share).ceil() as u32;
        let mut below = 0;
        let step = self.0.iter().position(|count| {
            below += count;
            below >= wanted && wanted > 0
        })?;
        Some(((step as f64 + 1.0) / 8.0).exp2() / 1000.0)
    }
}

/// The mean of `value` over the samples of one quarter, from 0 to 3, of a run.
pub fn quarter(samples: &[Sample], quarter: usize, value: impl Fn(&Sample) -> f64) -> f64 {
    let size = samples.len() / 4;
    let some = &samples[quarter * size..(quarter + 1) * size];
    some.iter().map(value).sum::<f64>() / some.len() as f64
}

/// What the least squares say that `value` grows by in an hour, over the second half of a run.
pub fn growth_per_hour(samples: &[Sample], value: impl Fn(&Sample) -> f64) -> f64 {
    let half = &samples[samples.len() / 2..];
    let count = half.len() as f64;
    let points: Vec<(f64, f64)> = half.iter().map(|it| (it.at.as_secs_f64() / 3600.0, value(it))).collect();
    let (sum_x, sum_y) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
    let (mean_x, mean_y) = (sum_x / count, sum_y / count);
    let covariance: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let variance: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    if variance == 0.0 { 0.0 } else { covariance / variance }
}

/// The tables.
pub fn markdown(
    books: &Books,
    minutes: f64,
    weather: Vec<(&'static str, String)>,
    samples: &[Sample],
) -> String {
    let (sent, unrecorded) = books.sent();
    let mut facts = vec![
        ("minutes", format!("{minutes:.1}")),
        ("requests sent", sent.to_string()),
        ("of them without a record, their head never read", unrecorded.to_string()),
        ("requests that crossed the end of an HTTP/1.1 connection", books.crossed.to_string()),
        ("records of requests", books.requests.to_string()),
        ("complaints", books.complaints_count.to_string()),
    ];
    if samples.len() >= SAMPLES_MIN {
        let kib = growth_per_hour(samples, |sample| sample.resident_kib as f64);
        facts.push(("resident MiB an hour, second half", format!("{:.2}", kib / 1024.0)));
    }
    facts.extend(weather);
    let mut text = String::from("\n| what | count |\n| --- | ---: |\n");
    for (what, figure) in facts {
        text += &format!("| {what} | {figure} |\n");
    }
    for (event, count) in &books.events {
        text += &format!("| records of `{event}` | {count} |\n");
    }
    text += "\n| kind | sent | records | outcomes | p50 ms | p99 ms |\n| --- | ---: | ---: | --- | ---: | ---: |\n";
    for (&kind, tally) in &books.tallies {
        let outcomes: Vec<_> =
            tally.outcomes.iter().map(|(what, count)| format!("{what}: {count}")).collect();
        let ms = |share| tally.latencies.quantile_ms(share).map_or("".to_owned(), |ms| format!("{ms:.1}"));
        let (p50, p99) = (ms(0.5), ms(0.99));
        let (name, outcomes) = (KINDS[kind].name, outcomes.join(", "));
        text += &format!("| {name} | {} | {} | {outcomes} | {p50} | {p99} |\n", tally.sent, tally.records);
    }
    text += "\n| at | resident MiB | descriptors | threads |";
    let Some(last) = samples.last() else { return text };
    let names: Vec<_> = last.gauges.iter().map(|(name, _)| name.as_str()).collect();
    text += &format!(
        " {} |\n| ---: | ---: | ---: | ---: |{}\n",
        names.join(" | "),
        " ---: |".repeat(names.len())
    );
    for percent in [0, 10, 25, 50, 75, 100] {
        let sample = &samples[(samples.len() - 1) * percent / 100];
        let gauges: Vec<_> = sample.gauges.iter().map(|(_, value)| format!("{value}")).collect();
        let mib = sample.resident_kib as f64 / 1024.0;
        text += &format!(
            "| {percent} % ({:.0} s) | {mib:.1} | {} | {} | {} |\n",
            sample.at.as_secs_f64(),
            sample.descriptors,
            sample.threads,
            gauges.join(" | ")
        );
    }
    text
}
