//! What operators write.

use std::fs;
use std::io::Write as _;
use std::sync::LazyLock;
use std::time::Duration;

use countersign::cli::mint::{Authority, CaSpec, LeafSpec, Validity};
use countersign::clock::Timestamp;
use countersign::config::{self, Config, Report};
use tempfile::TempDir;

use super::two_parts;

const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

/// With the files that `config/sidecar.toml` names.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let validity =
        Validity { from: NOW.minus(Duration::from_secs(60)), to: NOW.plus(Duration::from_secs(60)) };
    let ca = Authority::root(&CaSpec::new("shop CA", validity)).expect("a CA");
    let own = LeafSpec::workload("spiffe://shop.example/ns/prod/sa/orders", validity);
    let own = ca.issue(&own).expect("a certificate");
    let crl = ca.crl(&[], validity).expect("a list");
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("certs")).expect("a folder");
    for (name, text) in [
        ("orders.pem", &own.chain),
        ("orders-key.pem", &own.key),
        ("shop-ca.pem", &ca.pem()),
        ("shop.crl", &crl),
    ] {
        fs::write(folder.path().join("certs").join(name), text).expect("a file");
    }
    folder
});

fn load(text: &[u8]) -> Result<Config, Report> {
    let mut file = tempfile::Builder::new().suffix(".toml").tempfile_in(FOLDER.path()).expect("a file");
    file.write_all(text).expect("the bytes are written");
    let environment = |name: &str| (name == "NAME").then(|| "value".to_owned());
    config::load(&[file.path().to_owned()], &environment, NOW)
}

/// A file: whatever is wrong with it is told at a place that it has, and what is right with it means the
/// same each time it is read, whatever comments stand around it.
pub fn configuration(data: &[u8]) {
    let config = match load(data) {
        Ok(config) => config,
        Err(report) => {
            assert!(!report.diagnostics().is_empty());
            return check_report(&report);
        }
    };
    check_report(&config.report);
    let commented = [data, b"\n# a last word\n"].concat();
    for again in [data, &commented] {
        let again = load(again).expect("what was loaded is loaded again");
        assert_eq!(again.policy.hash(), config.policy.hash());
        assert_eq!(again.resolved, config.resolved);
    }
}

fn check_report(report: &Report) {
    for diagnostic in report.diagnostics() {
        for span in [Some(diagnostic.span), diagnostic.related].into_iter().flatten() {
            let text = report.sources.text(span.file);
            assert!(span.start <= span.end && text.get(span.start..span.end).is_some(), "{span:?}");
        }
    }
    assert_eq!(report.to_text(false).is_empty(), report.diagnostics().is_empty());
    assert_eq!(report.to_json().as_array().map(Vec::len), Some(report.diagnostics().len()));
}

/// A duration, and on the second line a size, without variables: each is exactly what it says, or refused.
pub fn value(data: &[u8]) {
    let (duration, size) = two_parts(data);
    let (Ok(duration), Ok(size)) = (std::str::from_utf8(duration), std::str::from_utf8(size)) else { return };
    if duration.contains("${") || size.contains("${") {
        return;
    }
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let limit = |key: &str, text: &str| {
        load(format!("version = 1\n[limit]\n{key} = {}\n", quoted(text)).as_bytes()).ok().map(|it| it.limits)
    };
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let ms = counted(duration, &units).filter(|ms| (1..=366 * 86_400_000).contains(ms));
    let taken = limit("idle_timeout", duration).map(|limits| limits.idle_timeout);
    assert_eq!(taken, ms.map(|ms| Duration::from_millis(u64::try_from(ms).expect("a year"))));
    let units = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let bytes = counted(size, &units).filter(|bytes| (1..=u128::from(u64::MAX)).contains(bytes));
    let taken = limit("body_bytes_max", size).map(|limits| limits.body_bytes_max);
    assert_eq!(taken.map(u128::from), bytes);
}

/// Digits and one of the units, in the smallest of them.
fn counted(text: &str, units: &[(&str, u128)]) -> Option<u128> {
    let (_, digits, unit) = units
        .iter()
        .filter_map(|(name, unit)| Some((name.len(), text.strip_suffix(name)?, unit)))
        .max_by_key(|(length, ..)| *length)?;
    let plain = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    let number = digits.trim_start_matches('0');
    // longer ones count to more than anything here
    (plain && number.len() <= 20).then(|| number.parse::<u128>().unwrap_or(0) * unit)
}
